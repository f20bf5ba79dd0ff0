//! One data thread's end of a lane: requests out, answers in, many at a time.
//!
//! Everything that the tasks of a data thread want to say to a worker in one turn of the event loop is gathered in one
//! buffer and leaves in one write; whatever one read brings is handed out in one go. That is what makes a process of
//! its own per application affordable (`docs/architecture.md`, "Why a lane").
//!
//! The worker is not trusted. Its frames are bounds-checked, a stream that exceeds its window or an answer nobody asked
//! for ends the lane, and with it the worker; no other application notices.

mod exchange;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::unix::net::UnixStream as Socket,
    rc::{Rc, Weak},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use portcullis_wire::{
    FileRange, Frame, HEADER, INITIAL_WINDOW, Kind, MAX_CHUNK, MAX_FRAME, Malformed, begin, end, put_empty, put_frame,
    put_u32, take_frame,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use slab::Slab;
use tokio::net::UnixStream;

use self::exchange::{Exchange, Phase};
pub use self::exchange::{Failure, Piece};
use crate::app::{
    answer::{Answer, read_head},
    file::SentFile,
    launch::LaneSockets,
    pool::{WorkerCommand, WorkerShared},
};

/// Requests that may be under way on one lane: what 16 bits of a request number can tell apart.
const MAX_IN_FLIGHT: usize = 1 << 16;

/// Response bytes consumed before the worker is told that it may send as many again. A quarter of the window keeps the
/// stream moving without a frame per chunk.
const CREDIT_STEP: u32 = INITIAL_WINDOW / 4;

/// One read takes at most this much, so that one flooding worker does not keep its data thread from its other work.
const READ_CHUNK: usize = 64 * 1024;

/// A client that takes nothing of an answer for this long, although there is something, does not get the rest.
const STALL: Duration = Duration::from_secs(30);

/// How often that is looked at.
const STALL_CHECK: Duration = Duration::from_secs(5);

/// One data thread's end of the connection to one worker.
pub struct Lane {
    worker: Arc<WorkerShared>,
    index: u32,
    retired: Cell<bool>,
    /// Where descriptors come from.
    files: Socket,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    out: BytesMut,
    exchanges: Slab<Exchange>,
    generation: u16,
    /// The lane's own task, to be woken when `out` has something to say.
    task: Option<Waker>,
    dead: bool,
}

impl Lane {
    /// Takes over connected sockets and starts the task that serves it; call inside a `LocalSet`.
    ///
    /// # Errors
    /// The socket cannot be registered with the runtime.
    pub fn open(
        worker: Arc<WorkerShared>,
        index: u32,
        LaneSockets { frames, files }: LaneSockets,
    ) -> std::io::Result<Rc<Self>> {
        frames.set_nonblocking(true)?;
        let socket = UnixStream::from_std(frames)?;
        let state = RefCell::new(State::default());
        let lane = Rc::new(Self { worker, index, retired: Cell::new(false), files, state });
        tokio::task::spawn_local(Rc::clone(&lane).serve(socket));
        tokio::task::spawn_local(watch_for_stalls(Rc::downgrade(&lane)));
        Ok(lane)
    }

    /// The worker at the other end.
    pub fn worker(&self) -> &Arc<WorkerShared> {
        &self.worker
    }

    /// Whether new requests may be given to it.
    pub fn is_open(&self) -> bool {
        !self.retired.get() && !self.worker.is_stuck() && {
            let state = self.state.borrow();
            !state.dead && state.exchanges.len() < MAX_IN_FLIGHT
        }
    }

    /// Whether it will never take a request again; one that is stuck may come back.
    pub fn is_over(&self) -> bool {
        self.retired.get() || self.state.borrow().dead
    }

    /// Gives it no new requests; those under way come to their end.
    pub fn retire(&self) {
        self.retired.set(true);
    }

    /// Sends a request; `head` writes the payload of a [`Kind::Request`] frame.
    pub fn start(self: &Rc<Self>, head: impl FnOnce(&mut BytesMut)) -> Ticket {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.generation = state.generation.wrapping_add(1);
        let generation = state.generation;
        let phase = if state.dead { Phase::Failed(Failure::WorkerLost) } else { Phase::Waiting };
        let slot = state.exchanges.insert(Exchange::new(generation, phase));
        let id = request_id(slot, generation);
        self.worker.in_flight.fetch_add(1, Ordering::Relaxed);
        if !state.dead {
            let start = begin(&mut state.out, id, Kind::Request);
            head(&mut state.out);
            end(&mut state.out, start);
            if state.out.len() - start > HEADER + MAX_FRAME {
                // The worker would end the lane over it, and with it every other request.
                state.out.truncate(start);
                state.exchanges[slot].phase = Phase::Failed(Failure::Application);
                tracing::error!("a request's head is larger than a frame");
            } else {
                state.wake_task();
            }
        }
        Ticket { lane: Rc::clone(self), id }
    }

    /// Gives up the answers that their clients have stopped taking: each holds a thread of the application.
    fn drop_stalled(&self) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let mut stalled = Vec::new();
        for (slot, exchange) in &mut state.exchanges {
            if !exchange.is_over() && exchange.waiting_since.is_some_and(|since| since.elapsed() > STALL) {
                stalled.push(request_id(slot, exchange.generation));
                // The worker still closes the exchange; what its client was is gone.
                exchange.give_up(Failure::Stalled);
            }
        }
        for id in stalled {
            put_empty(&mut state.out, id, Kind::Cancel);
            state.wake_task();
        }
    }

    /// Reads and writes until the worker goes away.
    async fn serve(self: Rc<Self>, socket: UnixStream) {
        let mut input = BytesMut::with_capacity(READ_CHUNK);
        let error = poll_fn(|cx| self.poll(cx, &socket, &mut input)).await;
        match error {
            Ended::Malformed(error) => {
                tracing::error!(worker = self.worker.id, application = %self.worker.application, %error, "a worker broke the protocol");
                self.worker.command(WorkerCommand::Replace("it broke the protocol"));
            }
            Ended::Closed | Ended::Io(_) if self.retired.get() => {}
            Ended::Closed => self.worker.command(WorkerCommand::LaneClosed),
            Ended::Io(error) => {
                tracing::debug!(worker = self.worker.id, %error, "lane closed");
                self.worker.command(WorkerCommand::LaneClosed);
            }
        }
        self.state.borrow_mut().fail_all();
        self.release_finished();
    }

    fn poll(&self, cx: &mut Context<'_>, socket: &UnixStream, input: &mut BytesMut) -> Poll<Ended> {
        if let Err(error) = self.poll_write(cx, socket) {
            return Poll::Ready(Ended::Io(error));
        }
        // One read per turn while others wait; the socket stays readable and the task is polled again.
        loop {
            match socket.poll_read_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Ended::Io(error)),
                Poll::Ready(Ok(())) => {}
            }
            input.reserve(READ_CHUNK);
            match socket.try_read_buf(input) {
                Ok(0) => return Poll::Ready(Ended::Closed),
                Ok(read) => {
                    if let Err(error) = self.dispatch(input) {
                        return Poll::Ready(Ended::Malformed(error));
                    }
                    if read < READ_CHUNK / 2 {
                        continue;
                    }
                    cx.waker().wake_by_ref();
                    break;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Ended::Io(error)),
            }
        }
        let mut state = self.state.borrow_mut();
        if !state.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            state.task = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn poll_write(&self, cx: &mut Context<'_>, socket: &UnixStream) -> std::io::Result<()> {
        let mut state = self.state.borrow_mut();
        while !state.out.is_empty() {
            match socket.try_write(&state.out) {
                Ok(written) => state.out.advance(written),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => match socket.poll_write_ready(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => break,
                },
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn dispatch(&self, input: &mut BytesMut) -> Result<(), Malformed> {
        let mut state = self.state.borrow_mut();
        while let Some(frame) = take_frame(input)? {
            let file = if frame.kind == Kind::File { Some(self.take_file(&frame)?) } else { None };
            let (slot, done) = state.receive(frame, file)?;
            if done && state.exchanges[slot].abandoned {
                self.finished_one(&state.exchanges.remove(slot));
            }
        }
        Ok(())
    }

    /// The descriptor that belongs to a [`Kind::File`] frame: sent before it, so it is here, and named like it.
    fn take_file(&self, frame: &Frame) -> Result<SentFile, Malformed> {
        let range = FileRange::parse(&frame.payload)?;
        let mut name = [0; 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = recvmsg(&self.files, &mut [IoSliceMut::new(&mut name)], &mut ancillary, flags)
            .map_err(|_| Malformed("a file without its descriptor"))?;
        // What is beyond the room for one descriptor, the kernel has closed already.
        let whole = received.bytes == name.len() && !received.flags.contains(ReturnFlags::CTRUNC);
        let mut descriptors = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        match descriptors.next().and_then(|mut descriptors| descriptors.next()) {
            Some(descriptor) if whole && u32::from_le_bytes(name) == frame.request => SentFile::new(descriptor, range),
            _ => Err(Malformed("a file with another descriptor than its own")),
        }
    }

    fn finished_one(&self, exchange: &Exchange) {
        if exchange.overdue {
            self.worker.overdue.fetch_sub(1, Ordering::AcqRel);
        }
        self.worker.finished(1);
    }

    /// Forgets abandoned exchanges of a dead lane.
    fn release_finished(&self) {
        self.state.borrow_mut().exchanges.retain(|_, exchange| {
            if exchange.abandoned {
                self.finished_one(exchange);
            }
            !exchange.abandoned
        });
    }
}

/// What nobody waits for any more and the worker has not closed yet, when the data thread ends before the worker's last
/// frame comes: it is not under way any longer, and nobody may wait for it (`WorkerShared::drained`).
impl Drop for Lane {
    fn drop(&mut self) {
        let abandoned = std::mem::take(&mut self.state.get_mut().exchanges);
        abandoned.iter().for_each(|(_, exchange)| self.finished_one(exchange));
    }
}

enum Ended {
    Closed,
    Io(std::io::Error),
    Malformed(Malformed),
}

impl State {
    fn wake_task(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    fn get(&mut self, id: u32) -> Option<&mut Exchange> {
        let (slot, generation) = slot_and_generation(id);
        self.exchanges.get_mut(slot).filter(|exchange| exchange.generation == generation)
    }

    /// Takes in one frame; tells the slot and whether the exchange is over.
    fn receive(&mut self, frame: Frame, file: Option<SentFile>) -> Result<(usize, bool), Malformed> {
        let (slot, _) = slot_and_generation(frame.request);
        let Some(exchange) = self.get(frame.request) else {
            return Err(Malformed("an answer to a request that is not under way"));
        };
        exchange.receive(frame, file)?;
        Ok((slot, exchange.is_over()))
    }

    fn fail_all(&mut self) {
        self.dead = true;
        self.out = BytesMut::new();
        for (_, exchange) in &mut self.exchanges {
            if !matches!(exchange.phase, Phase::Ended | Phase::Answered(Kind::Response, _)) {
                exchange.phase = Phase::Failed(Failure::WorkerLost);
            }
            exchange.wake();
        }
    }
}

async fn watch_for_stalls(lane: Weak<Lane>) {
    loop {
        tokio::time::sleep(STALL_CHECK).await;
        match lane.upgrade() {
            Some(lane) if !lane.state.borrow().dead => lane.drop_stalled(),
            _ => return,
        }
    }
}

/// What a worker has to say to a request that is waited for.
#[derive(Debug)]
pub enum Word {
    /// The head of its answer, or why there is none.
    Answer(Result<Answer, Failure>),
    /// It has been running for so many milliseconds, or [`portcullis_wire::NOT_BEGUN`].
    Progress(u32),
}

/// The right to one answer. Dropping it before the end tells the worker that nobody wants it any more.
pub struct Ticket {
    lane: Rc<Lane>,
    id: u32,
}

impl Ticket {
    /// Waits for the answer's head, or for how the request is doing if that was asked ([`Ticket::ask`]).
    pub async fn word(&self) -> Word {
        poll_fn(|cx| {
            let mut state = self.lane.state.borrow_mut();
            let Some(exchange) = state.get(self.id) else { return Poll::Ready(Word::Answer(Err(Failure::WorkerLost))) };
            if let Some(millis) = exchange.progress.take() {
                return Poll::Ready(Word::Progress(millis));
            }
            match exchange.take_head() {
                Some(head) => Poll::Ready(Word::Answer(head.and_then(|(kind, head)| self.read(kind, &head)))),
                None => {
                    exchange.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn read(&self, kind: Kind, payload: &Bytes) -> Result<Answer, Failure> {
        let (head, body) = read_head(payload, kind == Kind::Response).map_err(|error| {
            tracing::error!(worker = self.lane.worker.id, %error, "a worker sent an unreadable head");
            self.lane.worker.command(WorkerCommand::Replace("it sent an unreadable head"));
            Failure::WorkerLost
        })?;
        Ok(if kind == Kind::Response { Answer::Complete(head, body) } else { Answer::Streaming(head) })
    }

    /// Asks how the request is doing; with `withdraw`, it is taken back if it has not begun.
    pub fn ask(&self, withdraw: bool) {
        let mut state = self.lane.state.borrow_mut();
        put_empty(&mut state.out, self.id, if withdraw { Kind::Withdraw } else { Kind::Probe });
        state.wake_task();
    }

    /// The next piece of a streaming answer; `None` at its end.
    pub fn poll_piece(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, Failure>>> {
        let mut state = self.lane.state.borrow_mut();
        let state = &mut *state;
        let Some(exchange) = state.get(self.id) else { return Poll::Ready(Some(Err(Failure::WorkerLost))) };
        if let Some(failure) = exchange.given_up {
            return Poll::Ready(Some(Err(failure)));
        }
        if let Some(piece) = exchange.take_piece() {
            let length = match &piece {
                Piece::Bytes(bytes) => u32::try_from(bytes.len()).unwrap_or(u32::MAX),
                Piece::File(_) => 0,
            };
            exchange.buffered = exchange.buffered.saturating_sub(length);
            exchange.consumed += length;
            exchange.waiting_since = exchange.has_piece().then(Instant::now);
            if exchange.consumed >= CREDIT_STEP && matches!(exchange.phase, Phase::Streaming) {
                let consumed = std::mem::take(&mut exchange.consumed);
                put_u32(&mut state.out, self.id, Kind::Credit, consumed);
                state.wake_task();
            }
            return Poll::Ready(Some(Ok(piece)));
        }
        match exchange.phase {
            Phase::Ended => Poll::Ready(None),
            Phase::Failed(failure) => Poll::Ready(Some(Err(failure))),
            _ => {
                exchange.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whether the worker has said its last word and all of it was taken: nothing more comes.
    pub fn is_drained(&self) -> bool {
        let mut state = self.lane.state.borrow_mut();
        state.get(self.id).is_none_or(|exchange| matches!(exchange.phase, Phase::Ended) && !exchange.has_piece())
    }

    /// A handle for the task that sends the request's body.
    pub fn body_sender(&self) -> BodySender {
        BodySender { lane: Rc::clone(&self.lane), id: self.id }
    }

    /// The request's time is up: its thread is interrupted. If it does not come back, the worker is replaced; see
    /// [`crate::app::pool`].
    pub fn interrupt(&self) {
        if let Some(exchange) = self.lane.state.borrow_mut().get(self.id)
            && !std::mem::replace(&mut exchange.overdue, true)
        {
            self.lane.worker.overdue.fetch_add(1, Ordering::AcqRel);
        }
        self.lane.worker.command(WorkerCommand::Interrupt { lane: self.lane.index, request: self.id });
    }

    /// Whether the worker has closed this exchange.
    pub fn watch(&self) -> Watch {
        Watch { lane: Rc::clone(&self.lane), id: self.id }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.lane.state.borrow_mut();
        let (slot, _) = slot_and_generation(self.id);
        let Some(exchange) = state.get(self.id) else { return };
        let over = exchange.is_over();
        if over {
            exchange.wake();
            let exchange = state.exchanges.remove(slot);
            drop(state);
            self.lane.finished_one(&exchange);
            return;
        }
        exchange.abandoned = true;
        exchange.chunks = VecDeque::new();
        exchange.small = BytesMut::new();
        exchange.buffered = 0;
        exchange.wake();
        put_empty(&mut state.out, self.id, Kind::Cancel);
        state.wake_task();
    }
}

/// Tells later whether an exchange is still under way.
pub struct Watch {
    lane: Rc<Lane>,
    id: u32,
}

impl Watch {
    /// Whether the worker still holds the request.
    pub fn is_open(&self) -> bool {
        let mut state = self.lane.state.borrow_mut();
        !state.dead && state.get(self.id).is_some()
    }

    /// Ends the exchange: nothing more of it is passed on, and the worker is told that its client has left.
    pub fn cut(&self) {
        let mut state = self.lane.state.borrow_mut();
        let state = &mut *state;
        if let Some(exchange) = state.get(self.id).filter(|exchange| !exchange.is_over()) {
            exchange.give_up(Failure::Withdrawn);
            put_empty(&mut state.out, self.id, Kind::Cancel);
            state.wake_task();
        }
    }

    /// The worker that has it.
    pub fn worker(&self) -> &Arc<WorkerShared> {
        &self.lane.worker
    }
}

/// Sends the body of a request within the window that the worker grants.
pub struct BodySender {
    lane: Rc<Lane>,
    id: u32,
}

/// Nobody reads the body any more: the exchange is over.
#[derive(Debug, Clone, Copy)]
pub struct NotWanted;

impl BodySender {
    /// Sends all of `data`, waiting for room as needed.
    ///
    /// # Errors
    /// The exchange is over.
    pub async fn send(&self, mut data: Bytes) -> Result<(), NotWanted> {
        while !data.is_empty() {
            let room = poll_fn(|cx| self.poll_room(cx)).await?;
            let piece = data.split_to(data.len().min(room).min(MAX_CHUNK));
            self.put(|out, id| put_frame(out, id, Kind::Body, &piece), piece.len());
        }
        Ok(())
    }

    /// Waits until the exchange is over; for a sender that has nothing to send yet.
    pub async fn not_wanted(&self) {
        poll_fn(|cx| {
            let mut state = self.lane.state.borrow_mut();
            match state.get(self.id) {
                Some(exchange) if exchange.wants_body() => {
                    exchange.writer = Some(cx.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
        .await;
    }

    /// The body is complete.
    pub fn finish(&self) {
        self.put(|out, id| put_empty(out, id, Kind::BodyEnd), 0);
    }

    /// The client went away or broke the body.
    pub fn abort(&self) {
        self.put(|out, id| put_empty(out, id, Kind::BodyAbort), 0);
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Result<usize, NotWanted>> {
        let mut state = self.lane.state.borrow_mut();
        match state.get(self.id) {
            Some(exchange) if exchange.wants_body() => {
                if exchange.body_window > 0 {
                    return Poll::Ready(Ok(exchange.body_window as usize));
                }
                exchange.writer = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(Err(NotWanted)),
        }
    }

    fn put(&self, write: impl FnOnce(&mut BytesMut, u32), length: usize) {
        let mut state = self.lane.state.borrow_mut();
        let state = &mut *state;
        if let Some(exchange) = state.get(self.id).filter(|exchange| exchange.wants_body()) {
            exchange.body_window -= u32::try_from(length).unwrap_or(u32::MAX).min(exchange.body_window);
            write(&mut state.out, self.id);
            state.wake_task();
        }
    }
}

fn request_id(slot: usize, generation: u16) -> u32 {
    u32::from(generation) << 16 | u32::try_from(slot).unwrap_or(u32::MAX) & 0xffff
}

fn slot_and_generation(id: u32) -> (usize, u16) {
    let [a, b, c, d] = id.to_le_bytes();
    (usize::from(u16::from_le_bytes([a, b])), u16::from_le_bytes([c, d]))
}
