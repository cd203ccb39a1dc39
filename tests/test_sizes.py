"""Sizes as people write them."""

import pytest

from ramster.config import sizes
from ramster.errors import ConfigError

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("512M", 512 << 20),
        ("8G", 8 * GIB),
        ("50%", 8 * GIB),
        ("1.5G", 3 * GIB // 2),
        ("64k", 64 << 10),
        ("8GiB", 8 * GIB),
        ("8GB", 8 * GIB),
        ("1T", 1 << 40),
        ("8192", 8192),
        ("5000", 4096),
        ("100%", 16 * GIB),
    ],
)
def test_a_size_means_its_bytes_in_whole_pages(text: str, size_bytes: int) -> None:
    assert sizes.parse(text, of="--local", ram_bytes=16 * GIB) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "M",
        "5X",
        "-1G",
        "1e9",
        "inf",
        "nan",
        "0",
        "0%",
        "101%",
        "12 34",
        "5MG",
        "1..5G",
        "٣M",
        "100",
        "9999999T",
        "%",
    ],
)
def test_a_bad_size_is_one_line_that_names_the_flag_and_an_example(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sizes.parse(text, of="--local", ram_bytes=16 * GIB)
    message = str(caught.value)
    assert message.startswith("--local: ")
    assert "8G" in message
    assert "\n" not in message


def test_sizes_are_shown_in_the_unit_that_people_read() -> None:
    assert [sizes.show(n) for n in (0, 512, 1536, 300 << 20, 5 * GIB)] == [
        "0 B",
        "512 B",
        "1.5 KiB",
        "300 MiB",
        "5 GiB",
    ]
