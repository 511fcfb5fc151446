//! Stacks that are used again.
//!
//! loom runs each thread of each execution on a stack of its own, which it maps, guards and unmaps: with some hundred thousand
//! executions that is more work than all the rest. Here the calls it makes for that go to functions that keep a few
//! stacks for the next execution. They lie in the program, so the linker prefers them to the C library's; what is no
//! such stack is passed on to the system. Linux only: elsewhere all is as it was, and takes longer.

use libc::{MAP_STACK, SYS_mmap, SYS_munmap, c_int, c_void, off_t, size_t, syscall};
use std::cell::Cell;
use std::thread_local;

/// More than the threads of any model.
const MOST: usize = 32;

/// Address and size; 0: none.
type Stacks = Cell<[(usize, usize); MOST]>;

thread_local! {
    /// Those in use, and those that are kept: with no destructor, and nothing that would itself have to be mapped.
    static USED: Stacks = const { Cell::new([(0, 0); MOST]) };
    static KEPT: Stacks = const { Cell::new([(0, 0); MOST]) };
}

/// Puts it into a place that holds `from`. False: there is none.
fn put(stacks: &Stacks, from: impl Fn((usize, usize)) -> bool, to: (usize, usize)) -> Option<(usize, usize)> {
    let mut all = stacks.get();
    let place = all.iter_mut().find(|stack| from(**stack))?;
    let before = std::mem::replace(place, to);
    stacks.set(all);
    Some(before)
}

const NONE: (usize, usize) = (0, 0);

/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    address: *mut c_void,
    size: size_t,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: off_t,
) -> *mut c_void {
    let is_stack = flags & MAP_STACK != 0 && address.is_null();
    if is_stack && let Some(kept) = KEPT.with(|kept| put(kept, |stack| stack.1 == size, NONE)) {
        USED.with(|used| put(used, |stack| stack == NONE, kept));
        return kept.0 as *mut c_void;
    }
    // SAFETY: the caller's promise.
    let mapped = unsafe { syscall(SYS_mmap, address, size, protection, flags, file, offset) };
    if is_stack && mapped > 0 {
        USED.with(|used| put(used, |stack| stack == NONE, (mapped as usize, size)));
    }
    mapped as *mut c_void
}

/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn munmap(address: *mut c_void, size: size_t) -> c_int {
    let stack = (address as usize, size);
    let was_used = USED.with(|used| put(used, |used| used == stack, NONE)).is_some();
    if was_used && KEPT.with(|kept| put(kept, |kept| kept == NONE, stack)).is_some() {
        return 0;
    }
    // SAFETY: the caller's promise.
    unsafe { syscall(SYS_munmap, address, size) as c_int }
}
