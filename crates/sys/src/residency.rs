//! Which pages are there: PAGEMAP_SCAN (Linux 6.7) or /proc/self/pagemap. The kernel's page table is the truth; the pager's own counters follow it.
//!
//! Never mincore: it says no for a page that the kernel has put into its own swap, and a page believed absent is a page lost.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use ramster_core::page::PAGE_BYTES;
use rustix::io::Errno;

use crate::quiet::move_high;

const PAGEMAP_SCAN: u64 = (3 << 30) | (96 << 16) | (0x66 << 8) | 16;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;

/// The page tables of this process. After a fork the child opens its own.
pub struct Pagemap {
    fd: OwnedFd,
    has_scan: bool,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Found {
    start: u64,
    end: u64,
    categories: u64,
}

#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

impl Pagemap {
    pub fn open() -> Result<Self, Errno> {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let fd = move_high(rustix::fs::open(c"/proc/self/pagemap", flags, rustix::fs::Mode::empty())?);
        let mut pagemap = Self { fd, has_scan: true };
        pagemap.has_scan = pagemap.scan(pagemap.fd.as_raw_fd() as usize & !4095, 0, &mut [Found::default()]).is_ok();
        Ok(pagemap)
    }

    pub fn has_scan(&self) -> bool {
        self.has_scan
    }

    /// Calls `run(first address, bytes)` for each run of resident pages in the range, in order, and returns their sum in bytes.
    pub fn resident(&self, start: usize, len: usize, mut run: impl FnMut(usize, usize)) -> Result<usize, Errno> {
        if !self.has_scan {
            return self.resident_by_entry(start, len, run);
        }
        let (mut at, end, mut sum) = (start, start + len, 0);
        let mut found = [Found::default(); 64];
        while at < end {
            let (count, walked) = self.scan(at, end, &mut found)?;
            for one in &found[..count] {
                let bytes = (one.end - one.start) as usize;
                run(one.start as usize, bytes);
                sum += bytes;
            }
            at = walked.max(at + PAGE_BYTES);
        }
        Ok(sum)
    }

    /// Bit n is set when there is anything at page n of the 16 from `start`: a page, one in the kernel's swap, or the shared zero page.
    pub fn mask(&self, start: usize, pages: usize) -> Result<u16, Errno> {
        let end = start + pages.min(16) * PAGE_BYTES;
        let mut mask = 0;
        if !self.has_scan {
            self.resident_by_entry(start, end - start, |at, _| mask |= 1 << ((at - start) / PAGE_BYTES))?;
            return Ok(mask);
        }
        let mut found = [Found::default(); 16];
        let (count, _) = self.scan_for(start, end, &mut found, 0)?;
        for one in &found[..count] {
            for at in (one.start as usize..one.end as usize).step_by(PAGE_BYTES) {
                mask |= 1 << ((at - start) / PAGE_BYTES);
            }
        }
        Ok(mask)
    }

    /// The shared zero page is nobody's memory.
    fn scan(&self, start: usize, end: usize, found: &mut [Found]) -> Result<(usize, usize), Errno> {
        self.scan_for(start, end, found, PAGE_IS_PFNZERO)
    }

    fn scan_for(&self, start: usize, end: usize, found: &mut [Found], without: u64) -> Result<(usize, usize), Errno> {
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            start: start as u64,
            end: end.max(start) as u64,
            vec: found.as_mut_ptr() as u64,
            vec_len: found.len() as u64,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            category_mask: without,
            category_inverted: without,
            return_mask: PAGE_IS_PRESENT,
            ..ScanArg::default()
        };
        // SAFETY: the argument has the layout of struct pm_scan_arg, and `vec` points to `vec_len` regions that outlive the call.
        let count = unsafe { libc::ioctl(self.fd.as_fd().as_raw_fd(), PAGEMAP_SCAN, &mut arg) };
        if count < 0 {
            return Err(Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)));
        }
        Ok((count as usize, arg.walk_end as usize))
    }

    fn resident_by_entry(&self, start: usize, len: usize, mut run: impl FnMut(usize, usize)) -> Result<usize, Errno> {
        let mut sum = 0;
        let mut entries = [0u8; 512 * 8];
        let (mut at, end) = (start, start + len);
        while at < end {
            let want = ((end - at) / PAGE_BYTES).min(512) * 8;
            let got = rustix::io::pread(&self.fd, &mut entries[..want], (at / PAGE_BYTES * 8) as u64)?;
            if got == 0 {
                break;
            }
            for entry in entries[..got].chunks_exact(8) {
                // Bit 63: present; bit 62: in the kernel's own swap (Documentation/admin-guide/mm/pagemap.rst).
                if entry[7] >> 6 != 0 {
                    run(at, PAGE_BYTES);
                    sum += PAGE_BYTES;
                }
                at += PAGE_BYTES;
            }
        }
        Ok(sum)
    }
}

#[repr(C)]
#[derive(Default)]
struct ProcmapQuery {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}

const PROCMAP_QUERY: u64 = (3 << 30) | ((size_of::<ProcmapQuery>() as u64) << 16) | (0x66 << 8) | 17;

/// Where the kernel's mapping at `addr` ends. None: not mapped, or a kernel before 6.11.
pub fn kernel_mapping_end(addr: usize) -> Option<usize> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(c"/proc/self/maps", flags, rustix::fs::Mode::empty()).ok()?;
    let mut query = ProcmapQuery { size: size_of::<ProcmapQuery>() as u64, query_addr: addr as u64, ..ProcmapQuery::default() };
    // SAFETY: the argument has the layout of struct procmap_query and asks for no name and no build id, so nothing else is written.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), PROCMAP_QUERY, &mut query) };
    (result == 0).then_some(query.vma_end as usize)
}

/// Anonymous resident memory of the whole process, in bytes: an upper bound of what the pager manages, one cheap read.
pub fn process_anonymous_bytes() -> Result<usize, Errno> {
    let fd = rustix::fs::open(
        c"/proc/self/statm",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let mut text = [0u8; 128];
    let got = rustix::io::read(&fd, &mut text)?;
    let mut fields = text[..got].split(|byte| *byte == b' ').map(|field| {
        field.iter().fold(0usize, |sum, digit| if digit.is_ascii_digit() { sum * 10 + (digit - b'0') as usize } else { sum })
    });
    let resident = fields.nth(1).unwrap_or(0);
    let shared = fields.next().unwrap_or(0);
    Ok(resident.saturating_sub(shared) * PAGE_BYTES)
}
