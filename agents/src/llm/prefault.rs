//! Memory for a model's weights and its cache, taken from the kernel ahead of llama.cpp: it fills them on one processor, page by
//! page for the first time, and half of that time goes to the kernel, which another processor can be asked for meanwhile.

use std::fs;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Smallest allocation that is worth it, bytes.
pub const LARGE: usize = 32 << 20;
/// Bytes asked for at once: the end of loading waits for one at most.
const STEP: usize = 8 << 20;
/// How often new allocations are looked for.
const PAUSE: Duration = Duration::from_millis(1);

/// Whether a GPU's driver lives in this process: it maps far more than it uses.
const DRIVER: bool = cfg!(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"));

/// Does `work`, and meanwhile has every large allocation that it makes backed by memory. Where that fails nothing is lost:
/// pages come when they are touched, as ever. For work that fills what it allocates: else memory is spent on nothing.
pub fn ahead<T>(work: impl FnOnce() -> T) -> T {
    at_most(usize::MAX, work)
}

/// As [`ahead`], for so many bytes: what is allocated beyond them may be larger than what the work fills.
pub fn at_most<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if DRIVER || bytes < LARGE {
        return work();
    }
    // Before the work begins: what it allocates first is new too.
    let (ended, before) = (AtomicBool::new(false), large());
    std::thread::scope(|scope| {
        // Where no thread can be made it goes on without.
        let _ = std::thread::Builder::new().name("galen-prefault".to_owned()).spawn_scoped(scope, || follow(before, bytes, &ended));
        let _end = End(&ended);
        work()
    })
}

/// Says that the work has ended, however it did.
struct End<'w>(&'w AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn follow(mut known: Vec<Range<usize>>, mut left: usize, ended: &AtomicBool) {
    while left > 0 && !ended.load(Ordering::Relaxed) {
        for new in large().into_iter().flat_map(|range| beyond(range, &known)).collect::<Vec<_>>() {
            let end = new.end.min(new.start.saturating_add(left));
            left -= end - new.start;
            let mut steps = (new.start..end).step_by(STEP).map(|at| at..end.min(at + STEP));
            // What fails once (an old kernel, memory that is gone again) is not tried again.
            let _ = steps.all(|step| !ended.load(Ordering::Relaxed) && populate(step));
            known.push(new);
        }
        std::thread::sleep(PAUSE);
    }
}

/// What of a range is in no known one: the kernel joins an allocation to its neighbours, at either end.
fn beyond(range: Range<usize>, known: &[Range<usize>]) -> Vec<Range<usize>> {
    let without = |pieces: Vec<Range<usize>>, known: &Range<usize>| {
        let around = |piece: Range<usize>| {
            [piece.start..piece.end.min(known.start), piece.start.max(known.end)..piece.end].into_iter().filter(|p| !p.is_empty())
        };
        pieces.into_iter().flat_map(around).collect()
    };
    known.iter().fold(vec![range], without)
}

/// Addresses of the process's own large allocations.
fn large() -> Vec<Range<usize>> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter_map(allocation).filter(|range| range.len() >= LARGE).collect()
}

/// The addresses of a line of `/proc/PID/maps` that is private memory of no file.
fn allocation(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    // Permissions, offset, device, inode, and a name for what is not plain memory.
    let plain = words.next()? == "rw-p" && words.nth(2)? == "0" && words.next().is_none();
    plain.then_some(address(start)?..address(end)?)
}

#[allow(unsafe_code)]
#[cfg(target_os = "linux")]
fn populate(range: Range<usize>) -> bool {
    use nix::sys::mman::{MmapAdvise, madvise};

    let Some(start) = std::ptr::NonNull::new(std::ptr::with_exposed_provenance_mut(range.start)) else { return false };
    // SAFETY: this advice changes no content and no mapping: it touches pages as their first writer would. Where they are gone by
    // now it fails, and where something else is there by now that gets its memory a little early.
    unsafe { madvise(start, range.len(), MmapAdvise::MADV_POPULATE_WRITE) }.is_ok()
}

#[cfg(not(target_os = "linux"))]
fn populate(_: Range<usize>) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn plain_memory_is_told_from_files_stacks_and_what_is_not_written() {
        let plain = "7f0000000000-7f0010000000 rw-p 00000000 00:00 0 ";
        assert_eq!(allocation(plain), Some(0x7f00_0000_0000..0x7f00_1000_0000));
        for other in [
            "7f0000000000-7f0010000000 r--p 00000000 fe:00 4711 /m/model.gguf",
            "7f0000000000-7f0010000000 rw-s 00000000 00:01 0",
            "7f0000000000-7f0010000000 ---p 00000000 00:00 0",
            "7f0000000000-7f0010000000 rw-p 00000000 00:00 0 [stack]",
            "rubbish",
            "",
        ] {
            assert_eq!(allocation(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_joined_to_known_memory_is_told_from_it() {
        let all = |(start, end): (usize, usize), known: &[(usize, usize)]| {
            let known: Vec<Range<usize>> = known.iter().map(|k| k.0..k.1).collect();
            beyond(start..end, &known).into_iter().map(|range| (range.start, range.end)).collect::<Vec<_>>()
        };
        assert_eq!(all((0, 100), &[]), [(0, 100)]);
        assert_eq!(all((0, 100), &[(40, 60)]), [(0, 40), (60, 100)]);
        assert_eq!(all((0, 100), &[(40, 100), (0, 10)]), [(10, 40)]);
        assert_eq!(all((20, 30), &[(0, 100)]), []);
        assert_eq!(all((20, 30), &[(0, 20), (30, 100)]), [(20, 30)]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn large_allocations_of_the_work_are_resident_before_they_are_touched() {
        let resident = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
        };
        let before = resident();
        let wanted = before + (128 << 20);
        let block = ahead(|| {
            let block: Vec<u8> = Vec::with_capacity(256 << 20);
            let end = Instant::now() + Duration::from_secs(10);
            while !DRIVER && resident() < wanted && Instant::now() < end {
                std::thread::sleep(PAUSE);
            }
            block
        });
        // Half of it: other tests of this process may give back what they had.
        assert!(DRIVER || resident() >= wanted, "{} of {}", resident() - before, block.capacity());
    }
}
