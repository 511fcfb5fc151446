//! A worker thread: looks for work, serves one lane a chunk, sleeps when there is none.
//!
//! Workers choose for themselves. Grants first (a grant is not passed by), then the classes from the highest, and in
//! a class the lane with the least stride pass. A bit in the ready set is a hint: whoever finds nothing behind it
//! clears it, and clearing re-reads the lane's word.

use super::context::Context;
use super::gate::Held;
use super::lane::{LaneCore, Shell};
use super::recovery::InHand;
use super::shared::Shared;
use super::slot::Slot;
use crate::core::laneword::Take;
use crate::job::{Failure, Priority};
use crate::lock::outside;
use crate::meter::Recorder;
use crate::policy::{rng::Rng, stride};
use crate::sync::atomic::{Ordering, fence};
use crate::sync::{Arc, OnceLock, Parker, thread};
use crate::time::millis;
use crate::waitgraph;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// What becomes of the worker after a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    GoOn,
    /// A panic went through this thread: a new one takes its place.
    Replace,
    /// The supervisor gave its place away.
    Abandoned,
}

/// What a worker thread owns.
#[derive(Debug)]
pub(crate) struct WorkerState {
    pub(crate) slot: Arc<Slot>,
    pub(crate) held: Held,
    pub(super) in_hand: InHand,
    pub(crate) rng: Rng,
    pub(crate) recorder: Recorder,
}

impl WorkerState {
    /// `metered`: its latencies are recorded.
    pub(crate) fn new(id: usize, seed: u64, metered: bool) -> Self {
        let recorder = Recorder::switched(metered);
        Self {
            slot: Arc::new(Slot::new(id, recorder.reader())),
            held: Held::default(),
            in_hand: InHand::default(),
            rng: Rng::seeded(seed.wrapping_add(id as u64)),
            recorder,
        }
    }

    /// A state for whoever settles an abandoned item in the worker's stead.
    pub(crate) fn stand_in(slot: &Arc<Slot>, seed: u64) -> Self {
        Self { slot: Arc::clone(slot), ..Self::new(slot.id, seed, false) }
    }
}

/// What a worker does next.
enum Next {
    Serve(Arc<Shell>),
    Pause,
    Exit,
    /// The look for it panicked: a bug of ours.
    Recover,
}

/// After a look that panicked: one that does so every time must not keep a core busy.
const AFTER_PANIC: Duration = millis(100);

/// A ticket for an entry of this lane. Should something panic before the entry is served, the lane has the ticket back.
struct Ticket<'a> {
    shared: &'a Shared,
    /// Until it is used.
    shell: Option<Arc<Shell>>,
}

impl Ticket<'_> {
    fn core(&self) -> &LaneCore {
        &self.shell.as_ref().expect("it is used by value").core
    }

    fn used(mut self) -> Arc<Shell> {
        self.shell.take().expect("it is used by value")
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if let Some(shell) = self.shell.take() {
            self.shared.add(&shell, 1);
        }
    }
}

thread_local! {
    /// The engine whose worker this thread is: its address.
    static ENGINE: Cell<usize> = const { Cell::new(0) };
    /// The item this thread runs.
    static ITEM: Cell<*const Context> = const { Cell::new(std::ptr::null()) };
    /// Where the last panic of this worker was.
    static PANICKED: RefCell<Option<Place>> = const { RefCell::new(None) };
}

/// Whether this thread is a worker of this engine.
pub(crate) fn on_worker_of(shared: &Arc<Shared>) -> bool {
    ENGINE.try_with(|engine| engine.get() == Arc::as_ptr(shared) as usize).unwrap_or(false)
}

/// This thread is one of this engine's own from now on: it must not wait for the engine.
pub(crate) fn belong_to(shared: &Arc<Shared>) {
    ENGINE.with(|engine| engine.set(Arc::as_ptr(shared) as usize));
    waitgraph::tell_work(runs);
}

/// Shows the item that this thread runs, as who waits in it needs it.
fn runs(show: &mut dyn FnMut(&dyn waitgraph::Item)) {
    if let Ok(item) = ITEM.try_with(Cell::get)
        && !item.is_null()
    {
        // SAFETY: as in `with_current`.
        show(unsafe { &*item });
    }
}

/// Drops a value of the user's, whose `Drop` may panic.
pub(crate) fn drop_quietly<T>(value: T) {
    let _ = caught(move || drop(value));
}

/// What a failure says. To print its error and to drop it runs code of the user's, which may panic: one after the
/// other, since a panic of the second while the first unwinds would end the process.
pub(crate) fn text_of(failure: Failure) -> String {
    let text = caught(|| failure.message());
    drop_quietly(failure);
    text.unwrap_or_else(|(panic, _)| format!("its error cannot be shown: {panic}"))
}

/// Takes the place of the panic that this thread caught last, to carry it to another thread.
pub(crate) fn take_place() -> Option<Place> {
    PANICKED.take()
}

/// Notes a place that was carried here.
pub(crate) fn set_place(place: Option<Place>) {
    PANICKED.set(place);
}

/// Runs an item's closure with its context as this thread's current one.
#[inline(always)]
pub(crate) fn with_item<R>(ctx: &Context, f: impl FnOnce() -> R) -> R {
    struct Restore(*const Context);
    impl Drop for Restore {
        #[inline(always)]
        fn drop(&mut self) {
            ITEM.with(|item| item.set(self.0));
        }
    }
    let _restore = Restore(ITEM.with(|item| item.replace(ctx)));
    f()
}

/// The context of the item that this thread runs for this engine, if it runs one.
pub(crate) fn with_current<R>(shared: &Arc<Shared>, f: impl FnOnce(&Context) -> R) -> Option<R> {
    let item = ITEM.try_with(Cell::get).ok()?;
    if item.is_null() || !on_worker_of(shared) {
        return None;
    }
    // SAFETY: the pointer was set by `with_item`, which takes it back before its borrow of the context ends, on
    // every way out; this thread is inside that call, and the pointer never leaves the thread.
    Some(f(unsafe { &*item }))
}

/// Starts the thread of a worker.
pub(crate) fn start(shared: &Arc<Shared>, mut me: WorkerState) -> std::io::Result<()> {
    let shared_there = Arc::clone(shared);
    shared.thread_started();
    let started = thread::Builder::new().name(format!("batchyard-{}", me.slot.id)).spawn(move || {
        let shared = shared_there;
        belong_to(&shared);
        // Whatever happens, it is known that this thread has ended, and nothing stays in its hands.
        let fate = caught(|| work(&shared, &mut me)).unwrap_or_else(|_| {
            me.slot.leave_chunk();
            me.held.release(&shared);
            Fate::Replace
        });
        ENGINE.with(|engine| engine.set(0));
        if fate == Fate::Abandoned {
            shared.stuck.fetch_sub(1, Ordering::AcqRel);
        }
        if fate == Fate::Replace {
            shared.event(&super::events::Event::WorkerReplaced { worker: me.slot.id, why: "panicked" });
            let id = me.slot.id;
            if let Err(error) = start(&shared, me) {
                shared.worker_lost(id, &error);
            }
        }
        shared.thread_ended();
    });
    if started.is_err() {
        shared.thread_ended();
    }
    started.map(drop)
}

fn work(shared: &Arc<Shared>, me: &mut WorkerState) -> Fate {
    let id = me.slot.id;
    let parker = Parker::new();
    shared.ready.register(id, parker.unparker());
    loop {
        let next = shared.ready.wait(
            id,
            &parker,
            || caught(|| look(shared, me)).unwrap_or(Some(Next::Recover)),
            |parker| {
                parker.park();
                true
            },
        );
        match next {
            Next::Exit => return Fate::GoOn,
            Next::Recover => {
                me.held.release(shared);
                // Work that this worker has left is another one's meanwhile.
                shared.ready.wake_more();
                parker.park_timeout(AFTER_PANIC);
            }
            Next::Pause => {
                // The wake-up that came here may have been meant for work.
                shared.ready.wake_more();
                let slot = &me.slot;
                shared
                    .resumed
                    .wait(&shared.clock, None, || (!slot.is_paused() || shared.is_stopped()).then_some(()));
            }
            Next::Serve(shell) => {
                // A panic here is a second one: the body clears up after the first.
                let served =
                    caught(|| shell.with(|body| body.serve(shared, &shell, me))).unwrap_or_else(|_| {
                        me.slot.leave_chunk();
                        me.held.release(shared);
                        shell.with(|body| body.take_back_from(shared, &shell, id));
                        Some(Fate::Replace)
                    });
                debug_assert!(me.held.is_empty(), "permits are given back at the end of a chunk");
                // The shell may be the last handle on a user's closure: its `Drop` is the user's too.
                drop_quietly(shell);
                // ORDERING: SeqCst with the fence in `shutdown`: either it sees that this chunk has ended, or we see here
                // that it waits for that.
                fence(Ordering::SeqCst);
                if shared.is_draining() {
                    shared.quiet.notify();
                }
                match served {
                    // A ticket of a lane that was taken away: `map` has ended, nothing is left to run.
                    None => me.held.release(shared),
                    Some(Fate::GoOn) => {}
                    Some(fate) => return fate,
                }
            }
        }
    }
}

/// One look at all bitmaps. A found entry's ticket is taken.
fn look(shared: &Arc<Shared>, me: &mut WorkerState) -> Option<Next> {
    if shared.is_stopped() {
        return Some(Next::Exit);
    }
    if me.slot.is_paused() {
        return Some(Next::Pause);
    }
    let mut admitted = shared.ready.admitted_bits();
    while admitted != 0 {
        let lane = admitted.trailing_zeros() as usize;
        admitted &= admitted - 1;
        if !shared.ready.take_admitted(lane) {
            continue;
        }
        let Some(shell) = shared.lane(lane) else { continue };
        if shell.core.gate.take_up(shared, &shell.core, &mut me.held) {
            if let Take::Got { .. } = shell.core.word.take() {
                return Some(Next::Serve(shell));
            }
            // Its item has gone: the grant passes on.
            me.held.release(shared);
        }
        drop_quietly(shell);
    }
    for class in (0..Priority::CLASSES).rev() {
        loop {
            let bits = shared.ready.bits(class);
            let Some(lane) = least_pass(shared, bits) else { break };
            let tenant = shared.tenant(lane);
            let Some(shell) = shared.lane(lane) else {
                shared.forget(lane, class, &shared.void, tenant);
                continue;
            };
            let Take::Got { left } = shell.core.word.take() else {
                shared.forget(lane, class, &shell.core.word, tenant);
                drop_quietly(shell);
                continue;
            };
            let ticket = Ticket { shared, shell: Some(shell) };
            #[cfg(test)]
            shared.planted.strike();
            let core = ticket.core();
            let own = usize::from(core.tunables.get().class);
            if own != class {
                // An aged lane's turn in a higher class is one chunk; or its class was changed just now. What is left is
                // to be found in its own class.
                shared.forget(lane, class, &shared.void, tenant);
                shared.forget(lane, own, &core.word, tenant);
            } else if left == 0 {
                shared.forget(lane, class, &core.word, tenant);
            }
            shared.ready.wake_more();
            return Some(Next::Serve(ticket.used()));
        }
    }
    None
}

fn least_pass(shared: &Shared, mut bits: u64) -> Option<usize> {
    let mut best: Option<(usize, u64)> = None;
    while bits != 0 {
        let lane = bits.trailing_zeros() as usize;
        bits &= bits - 1;
        let pass = shared.passes[lane].load(Ordering::Relaxed);
        if best.is_none_or(|(_, least)| stride::before(pass, least)) {
            best = Some((lane, pass));
        }
    }
    best.map(|(lane, _)| lane)
}

/// Where a panic was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    file: String,
    line: u32,
    column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Runs user code; a panic comes back as its message and place.
#[inline]
pub(crate) fn caught<R>(f: impl FnOnce() -> R) -> Result<R, (String, Option<Place>)> {
    outside();
    // Unwind safety: what the closure captured is shared user data; a panic in one item says nothing about the
    // others, and the item's own state is dropped with it.
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic| {
        let what = (message(&*panic), PANICKED.take());
        drop_payload(panic);
        what
    })
}

/// What was panicked with is a value of the user's, and its `Drop` may panic in turn: with a payload that is then
/// left where it is, since its `Drop` would be the next.
#[cold]
fn drop_payload(panic: Box<dyn Any + Send>) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(another);
    }
}

#[cold]
fn message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}

/// Installs, once a process, a panic hook that notes where a worker's panic was and then runs the hook that was
/// there before.
pub(crate) fn install_panic_hook() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let worker = ENGINE.try_with(|engine| engine.get() != 0).unwrap_or(false);
            if worker {
                let place = info.location().map(|at| Place {
                    file: at.file().to_owned(),
                    line: at.line(),
                    column: at.column(),
                });
                let _ = PANICKED.try_with(|cell| cell.replace(place));
            }
            before(info);
        }));
    });
}
