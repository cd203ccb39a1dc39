//! What this kernel and this user allow, for `ramster doctor`: how userfaultfd is reached, which features it has, and what is used instead of a missing one.

use ramster_sys::residency::Pagemap;
use ramster_sys::uffd::{Door, Uffd, feature};
use rustix::io::Errno;

#[derive(Clone, Debug)]
pub struct Probe {
    pub kernel: String,
    /// "device", "syscall", or why neither works, with the cure.
    pub userfaultfd: Result<&'static str, String>,
    pub has_move: bool,
    pub has_poison: bool,
    pub has_write_protect: bool,
    pub has_pagemap_scan: bool,
    /// Nanoseconds that an idle virtual core polls before it halts; None on bare metal or without the module. 0 makes every wake-up of an idle core dear.
    pub halt_poll_ns: Option<u64>,
}

pub fn probe() -> Probe {
    let uffd = Uffd::open();
    let has = |feature| uffd.as_ref().is_ok_and(|uffd| uffd.has(feature));
    Probe {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        has_move: has(feature::MOVE),
        has_poison: has(feature::POISON),
        has_write_protect: has(feature::WP),
        has_pagemap_scan: Pagemap::open().is_ok_and(|pagemap| pagemap.has_scan()),
        halt_poll_ns: std::fs::read_to_string("/sys/module/haltpoll/parameters/guest_halt_poll_ns")
            .ok()
            .and_then(|text| text.trim().parse().ok()),
        userfaultfd: match uffd {
            Ok(uffd) if uffd.door() == Door::Device => Ok("device"),
            Ok(_) => Ok("syscall"),
            Err(errno) => Err(why_not(errno)),
        },
    }
}

/// One line that names the privilege or kernel feature that is missing, and the cure.
pub fn why_not(errno: Errno) -> String {
    match errno {
        Errno::PERM | Errno::ACCESS => "no permission for userfaultfd: let this user open /dev/userfaultfd (as root: setfacl -m u:$USER:rw /dev/userfaultfd), \
             or on kernels before 6.1 set sysctl vm.unprivileged_userfaultfd=1"
            .to_owned(),
        Errno::NOSYS | Errno::NOENT => "this kernel has no userfaultfd: CONFIG_USERFAULTFD is needed".to_owned(),
        Errno::INVAL => "this kernel's userfaultfd cannot write-protect: Linux 5.7 or newer is needed".to_owned(),
        other => format!("userfaultfd cannot be opened ({other})"),
    }
}
