/* Children that become another program: fork and exec, vfork, posix_spawn, popen, system; with much of the parent's memory evicted. */
#include "check.h"
#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

static void done(pid_t child, int expected) {
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == expected);
}

int main(int argc, char **argv) {
    if (argc > 1) { /* as a child */
        char *at = map_plain(24 * MIB);
        fill(at, 24 * MIB, 8);
        CHECK(holds(at, 24 * MIB, 8));
        return 7;
    }
    char *data = map_plain(32 * MIB), *block = malloc(8 * MIB);
    fill(data, 32 * MIB, 1);
    fill(block, 8 * MIB, 2);
    /* Arguments that lie in evicted memory. */
    char **args = malloc(300 * 1024);
    args[0] = strcpy((char *)args + 100 * 1024, argv[0]);
    args[1] = strcpy((char *)args + 200 * 1024, "child");
    args[2] = NULL;
    for (int round = 0; round < 4; round++) {
        push_out();
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            execv(args[0], args);
            _exit(99);
        }
        done(child, 7);
        push_out();
        child = vfork();
        CHECK(child >= 0);
        if (child == 0) {
            execv(args[0], args);
            _exit(99);
        }
        done(child, 7);
        push_out();
        CHECK(posix_spawn(&child, args[0], NULL, NULL, args, environ) == 0);
        done(child, 7);
        FILE *pipe = popen("echo through a shell | cat", "r");
        char line[100];
        CHECK(pipe && fgets(line, sizeof line, pipe) && strcmp(line, "through a shell\n") == 0 && pclose(pipe) == 0);
        CHECK(system("exit 3") == 3 << 8);
        CHECK(holds(data, 32 * MIB, 1) && holds(block, 8 * MIB, 2));
    }
    /* Without the environment the child is simply unmanaged. */
    char *none[] = {NULL};
    pid_t child;
    CHECK(posix_spawn(&child, args[0], NULL, NULL, args, none) == 0);
    done(child, 7);
    free(args);
    free(block);
    CHECK(munmap(data, 32 * MIB) == 0);
    return ok();
}
