//! `preload = true`: one process imports the application, and its workers are forked from that one.
//!
//! A nursery belongs to one version of an application: a reload makes another, whose process imports anew. Workers hold
//! on to the process they were forked from, because the kernel ends them with it.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{net::UnixStream as Socket, process::ExitStatusExt},
    },
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use portcullis_wire::{Kind, put_u32, take_frame, u32_payload};
use rustix::{
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
    pipe::{PipeFlags, pipe_with},
    process::Signal,
};
use tokio::{
    io::Interest,
    net::unix::pipe,
    sync::{Mutex, mpsc, oneshot},
};

use crate::app::{
    launch::{LaneSockets, LaunchError, Launched, MAX_LANES, send_with},
    process::{Forked, Process, describe, is_child},
    worker::{BootError, Control, EXIT_GRACE, LastWords, Start, Worker, copy_output, output_of},
};

/// Where the workers of one version of an application come from.
#[derive(Clone, Default)]
pub struct Nursery(Arc<Mutex<Option<Arc<Parent>>>>);

/// A process that has imported an application and serves nothing. Dropping it ends the process, and every worker that
/// was forked from it.
pub struct Parent {
    orders: mpsc::UnboundedSender<Order>,
}

/// A worker to be forked: its control socket, standard output, standard error, and lanes.
struct Order {
    descriptors: Vec<OwnedFd>,
    reply: oneshot::Sender<io::Result<Forked>>,
}

impl Nursery {
    /// A worker whose application is imported.
    ///
    /// # Errors
    /// See [`BootError`]; nothing is left running.
    pub async fn worker(&self, start: Start<'_>) -> Result<Worker, BootError> {
        if !start.launch.boot.preload {
            return Worker::boot(start).await;
        }
        let parent = self.parent(&start).await?;
        let fork = parent.fork(start.lanes);
        let Ok(forked) = tokio::time::timeout(start.patience, fork).await else {
            // One that does not fork is no use to the next worker either.
            self.0.lock().await.take();
            return Err(BootError::Slow(start.patience));
        };
        let (forked, sockets) =
            forked.map_err(|source| LaunchError::Io { what: "a worker could not be forked".into(), source })?;
        let Sockets { control, lanes, output } = sockets;
        let launched = (Process::Forked(forked), control, lanes);
        let output = output.map(|pipe| Some(Box::new(pipe) as _));
        Worker::bring_up(start, launched, output, Some(parent)).await
    }

    /// The process to fork from, which is started when there is none, or none any more.
    async fn parent(&self, start: &Start<'_>) -> Result<Arc<Parent>, BootError> {
        let mut slot = self.0.lock().await;
        if let Some(parent) = slot.as_ref().filter(|parent| !parent.orders.is_closed()) {
            return Ok(Arc::clone(parent));
        }
        let parent = Arc::new(Parent::boot(start).await?);
        *slot = Some(Arc::clone(&parent));
        Ok(parent)
    }
}

/// Our ends of what a forked worker is given.
struct Sockets {
    control: Socket,
    lanes: Vec<LaneSockets>,
    output: [pipe::Receiver; 2],
}

impl Parent {
    async fn boot(start: &Start<'_>) -> Result<Self, BootError> {
        let Launched { mut child, control, .. } = start.launch.spawn(0).await?;
        let pid = child.id().unwrap_or_default();
        let (log, words) = (start.log.of_worker(pid, start.clock.clone()), LastWords::default());
        let pipes = copy_output(output_of(&mut child), &log, &words);
        let mut process = Process::Started(child);
        let mut control = Control::new(control, log, start.places.clone())?;
        let (ready, _) = control.boot(&mut process, start.patience, pipes, &words).await?;
        tracing::info!(
            application = %start.launch.boot.application,
            pid,
            python = ready.python,
            import_ms = ready.import_ms,
            "application preloaded"
        );
        let (orders, ordered) = mpsc::unbounded_channel();
        let tended = Tended {
            application: start.launch.boot.application.clone(),
            process,
            control,
            handles: VecDeque::new(),
            waiting: VecDeque::new(),
            statuses: HashMap::new(),
        };
        tokio::spawn(tended.tend(ordered));
        Ok(Self { orders })
    }

    async fn fork(&self, lanes: usize) -> io::Result<(Forked, Sockets)> {
        let (control, theirs) = Socket::pair()?;
        let mut descriptors = vec![OwnedFd::from(theirs)];
        let mut pipe = || {
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
            descriptors.push(theirs);
            pipe::Receiver::from_owned_fd(ours)
        };
        let output = [pipe()?, pipe()?];
        let mut ours = Vec::new();
        for _ in 0..lanes.min(MAX_LANES) {
            let (lane, LaneSockets { frames, files }) = LaneSockets::pair().map_err(io::Error::other)?;
            ours.push(lane);
            descriptors.extend([OwnedFd::from(frames), OwnedFd::from(files)]);
        }
        let (reply, forked) = oneshot::channel();
        let gone = || io::Error::other("the process that preloaded the application has ended");
        self.orders.send(Order { descriptors, reply }).map_err(|_| gone())?;
        let forked = forked.await.map_err(|_| gone())??;
        Ok((forked, Sockets { control, lanes: ours, output }))
    }
}

/// The life of a process that others are forked from.
struct Tended {
    application: String,
    process: Process,
    control: Control,
    /// Descriptors that came before their frames.
    handles: VecDeque<OwnedFd>,
    /// Orders that were given and not answered, in order.
    waiting: VecDeque<oneshot::Sender<io::Result<Forked>>>,
    /// Who wants to know how which worker ended.
    statuses: HashMap<u32, oneshot::Sender<ExitStatus>>,
}

impl Tended {
    async fn tend(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            tokio::select! {
                status = self.process.wait() => {
                    let how = status.map_or_else(|| "was lost".to_owned(), describe);
                    tracing::error!(application = %self.application, "the process that preloaded it {how}, and its workers with it");
                    return;
                }
                ready = self.control.readable() => if ready.is_err() || self.read().is_none() {
                    tracing::error!(application = %self.application, "the process that preloaded it broke the protocol and is replaced");
                    self.process.signal(Signal::KILL);
                    return;
                },
                order = orders.recv() => match order {
                    Some(order) => self.give(order),
                    None => return self.stop().await,
                },
            }
        }
    }

    /// Nobody wants another worker, and the last one has ended.
    async fn stop(mut self) {
        let patience = if self.control.say_empty(Kind::Stop) { EXIT_GRACE } else { Duration::ZERO };
        if tokio::time::timeout(patience, self.process.wait()).await.is_err() {
            self.process.signal(Signal::KILL);
        }
    }

    fn give(&mut self, Order { descriptors, reply }: Order) {
        let lanes = u32::try_from((descriptors.len() - 3) / 2).unwrap_or(0);
        let mut message = BytesMut::new();
        put_u32(&mut message, 0, Kind::Fork, lanes);
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        // The socket is non-blocking: one that does not listen is not waited for.
        match send_with(&self.control.socket, &message, &borrowed) {
            Ok(()) => self.waiting.push_back(reply),
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    /// Takes in what has come; `None` when it is not what it should be.
    fn read(&mut self) -> Option<()> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = self.control.socket.try_io(Interest::READABLE, || {
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            Ok(recvmsg(&self.control.socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?)
        });
        let length = match received {
            Ok(message) if message.bytes > 0 => message.bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(()),
            _ => return None,
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.handles.extend(descriptors);
                // One for each order; more would use up ours.
                if self.handles.len() > self.waiting.len() {
                    return None;
                }
            }
        }
        self.control.pace.took(length);
        self.control.input.extend_from_slice(&bytes[..length]);
        while let Some(frame) = take_frame(&mut self.control.input).ok()? {
            match frame.kind {
                Kind::Forked => self.forked(u32_payload(&frame.payload).ok()?)?,
                Kind::Exited => {
                    let (pid, status) = frame.payload.split_first_chunk::<4>()?;
                    let status = i32::from_le_bytes(status.try_into().ok()?);
                    if let Some(wanted) = self.statuses.remove(&u32::from_le_bytes(*pid)) {
                        let _ = wanted.send(ExitStatus::from_raw(status));
                    }
                }
                Kind::Log => self.control.take_log(&frame)?,
                _ => return None,
            }
        }
        Some(())
    }

    fn forked(&mut self, pid: u32) -> Option<()> {
        let handle = self.handles.pop_front()?;
        // Signals will go to whatever the handle stands for, and they will be ours: never to anybody else's process.
        if !is_child(&handle, pid, self.process.pid()) {
            return None;
        }
        let reply = self.waiting.pop_front()?;
        let (status, ended) = oneshot::channel();
        self.statuses.insert(pid, status);
        let _ = reply.send(Forked::new(pid, handle, ended));
        Some(())
    }
}
