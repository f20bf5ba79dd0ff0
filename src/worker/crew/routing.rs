//! From frames to requests: what the thread that reads the lanes does with them.

use std::{os::fd::OwnedFd, time::Instant};

use portcullis_wire::{FailKind, Frame, Kind, Malformed, NOT_BEGUN, RequestHead, put_fail, put_u32, u32_payload};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Crew, Job, State, micros};
use crate::{
    control::MAX_LANES,
    exchange::Body,
    lane::{Lane, Patience},
};

/// More than a socket holds by default; what is left after that waits for the next turn.
const MOST_READS: usize = 4;

impl Crew {
    /// Waits for frames and routes them; false when a signal came first.
    pub(super) fn attend(&self, seat: usize, timeout: Option<&Timespec>) -> bool {
        let bell = &self.seats[seat].bell;
        let mut watched = [const { None }; MAX_LANES];
        let mut fds = Vec::with_capacity(self.lanes.len() + 2);
        fds.push(PollFd::new(bell, PollFlags::IN));
        for (index, lane) in self.lanes.iter().enumerate().filter(|(_, lane)| !lane.is_gone()) {
            watched[fds.len() - 1] = Some(index);
            fds.push(PollFd::new(&lane.socket, PollFlags::IN));
        }
        let lanes = fds.len();
        fds.extend(self.signals.as_ref().map(|signals| PollFd::new(signals, PollFlags::IN)));
        if poll(&mut fds, timeout).is_err() {
            return false;
        }
        if let Some((signals, fd)) = self.signals.as_ref().zip(fds.get(lanes))
            && !fd.revents().is_empty()
        {
            self.signalled(signals);
        }
        if !fds[0].revents().is_empty() {
            let _ = rustix::io::read(bell, &mut [0u8; 8]);
        }
        for (fd, index) in fds[1..lanes].iter().zip(watched.iter().flatten()) {
            if !fd.revents().is_empty() {
                self.read_all(*index);
            }
        }
        true
    }

    /// Reads a lane until it is empty or there is enough to do. A request and its body come together: whoever runs the
    /// one should not have to wait for the other.
    fn read_all(&self, index: usize) {
        for _ in 0..MOST_READS {
            match self.lanes[index].read(|frames| self.route(index, frames)) {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => return self.lose(index),
            }
        }
    }

    /// Has the main thread run the handlers of signals that have come.
    fn signalled(&self, signals: &OwnedFd) {
        let _ = rustix::io::read(signals, &mut [0u8; 64]);
        let mut state = self.lock();
        state.signalled = true;
        self.call(&mut state, 0);
    }

    fn route(&self, lane: usize, frames: &mut Vec<Frame>) {
        let now = Instant::now();
        let mut state = self.lock();
        for frame in frames.drain(..) {
            if self.route_one(&mut state, lane, frame, now).is_err() {
                drop(state);
                self.lose(lane);
                return;
            }
        }
    }

    fn route_one(&self, state: &mut State, lane: usize, frame: Frame, now: Instant) -> Result<(), Malformed> {
        let Frame { request, kind, payload } = frame;
        match kind {
            Kind::Request => {
                state.serial += 1;
                let serial = state.serial;
                if RequestHead::body_follows(&payload)? {
                    state.bodies.insert((lane, request), Body::new(serial));
                }
                state.queue.push_back(Job { lane, request, serial, payload, arrived: now });
            }
            Kind::Body | Kind::BodyEnd | Kind::BodyAbort => {
                // A body whose request is over was under way when it ended.
                let Some(body) = state.bodies.get_mut(&(lane, request)) else { return Ok(()) };
                body.take(kind, payload)?;
                self.tell(state, lane, request);
            }
            Kind::Credit => {
                let more = u32_payload(&payload)?;
                if let Some(running) = state.running(lane, request) {
                    running.window = running.window.saturating_add(more);
                    self.tell(state, lane, request);
                }
            }
            Kind::Cancel => {
                if let Some(running) = state.running(lane, request) {
                    running.cancelled = true;
                    self.tell(state, lane, request);
                } else {
                    self.drop_queued(state, lane, request, FailKind::Cancelled);
                }
            }
            Kind::Probe => self.tell_progress(state, lane, request),
            Kind::Withdraw => {
                if !self.drop_queued(state, lane, request, FailKind::NotBegun) {
                    self.tell_progress(state, lane, request);
                }
            }
            _ => return Err(Malformed("a frame that a gateway does not send on a lane")),
        }
        Ok(())
    }

    /// Wakes whoever waits inside that request.
    fn tell(&self, state: &mut State, lane: usize, request: u32) {
        if let Some(seat) = state.seat_of(lane, request)
            && (state.places[seat].watching || state.places[seat].polling || state.visitors > 0)
        {
            self.call(state, seat);
        }
    }

    /// How long a request has been running. One that is over has had its last word already.
    fn tell_progress(&self, state: &mut State, lane: usize, request: u32) {
        let millis = if let Some(running) = state.running(lane, request) {
            u32::try_from(running.began.elapsed().as_millis()).unwrap_or(NOT_BEGUN - 1)
        } else if state.is_queued(lane, request) {
            NOT_BEGUN
        } else {
            return;
        };
        self.lanes[lane].put(|out| put_u32(out, request, Kind::Progress, millis));
        // A full socket is flushed by the next answer.
        self.lanes[lane].flush(Patience::None);
    }

    /// Answers a request that was never begun; false when there is none.
    pub(super) fn drop_queued(&self, state: &mut State, lane: usize, request: u32, why: FailKind) -> bool {
        let Some(at) = state.queue.iter().position(|job| job.lane == lane && job.request == request) else {
            return false;
        };
        let waited = state.queue.remove(at).map_or(0, |job| micros(job.arrived.elapsed()));
        state.bodies.remove(&(lane, request));
        self.lanes[lane].put(|out| put_fail(out, request, why, waited));
        self.lanes[lane].flush(Patience::None);
        true
    }

    /// Ends a lane: its requests are cancelled, and without any lane left the worker is done.
    pub(crate) fn lose(&self, index: usize) {
        if !self.lanes[index].abandon() {
            return;
        }
        let mut state = self.lock();
        let State { queue, bodies, .. } = &mut *state;
        queue.retain(|job| {
            if job.lane == index {
                bodies.remove(&(index, job.request));
            }
            job.lane != index
        });
        for seat in 0..state.places.len() {
            if let Some(running) = state.places[seat].running.as_mut().filter(|running| running.lane == index) {
                running.cancelled = true;
                self.call(&mut state, seat);
            }
        }
        for (_, body) in state.bodies.iter_mut().filter(|((lane, _), _)| *lane == index) {
            body.aborted = true;
        }
        drop(state);
        if self.lanes.iter().all(Lane::is_gone) {
            self.stop();
        }
    }
}
