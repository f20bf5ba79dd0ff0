//! One worker process: booted, listened to, stopped. Runs on the control thread.

use std::{
    collections::VecDeque,
    process::ExitStatus,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::BytesMut;
use portcullis_wire::{Frame, Interrupt, Kind, Level, Log, Modules, Ready, Source, begin, end, put_empty, take_frame};
use rustix::process::Signal;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    net::UnixStream,
    process::Child,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    app::{
        launch::{LaneSockets, Launch, LaunchError, Launched},
        log::{AppLog, Pace, WorkerLog},
        nursery::Parent,
        pool::{WorkerCommand, WorkerShared},
        process::{Process, describe},
        watch::Places,
    },
    clock::Clock,
};

/// A worker that was told to stop has this long after its last request for `atexit` handlers and flushes, before
/// SIGTERM; and as long again before SIGKILL.
pub(super) const EXIT_GRACE: Duration = Duration::from_secs(5);

/// A worker that has closed a lane has this long to end by itself and be reported as what it was.
const LANE_GRACE: Duration = Duration::from_secs(1);

/// A worker that is told to write its stacks has this long for it. One that is stopped, or has lost its head, cannot.
const DUMP_GRACE: Duration = Duration::from_secs(2);

/// How long the last output of a process is waited for before its end is told.
const LAST_OUTPUT: Duration = Duration::from_millis(200);

/// How long others that have inherited its output are listened to.
const AFTERWARDS: Duration = Duration::from_secs(10);

/// The longest line of standard output that is kept whole.
const MAX_LINE: u64 = 64 * 1024;

/// Room made for one read of the control socket.
const READ: usize = 16 * 1024;

/// How the interpreter's last words begin, when it or `faulthandler` still finds time for them.
const FATAL: &str = "Fatal Python error";

/// Lines of standard error that are kept to explain a death.
const LAST_WORDS: usize = 20;

/// A worker whose application is imported.
pub struct Worker {
    /// What other threads know of it.
    pub shared: Arc<WorkerShared>,
    /// Its lanes, one per data thread, not yet handed out.
    pub lanes: Vec<LaneSockets>,
    /// Its process id.
    pub pid: u32,
    /// What it said when it was ready.
    pub ready: Ready,
    ending: watch::Receiver<Option<String>>,
    stop: mpsc::UnboundedSender<()>,
}

/// Why there is no worker.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// It could not be started at all.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The application could not be imported: its traceback.
    #[error("{0}")]
    Import(String),
    /// It went away before it was ready.
    #[error("before the application was imported, the worker {0}")]
    Died(String),
    /// It took too long.
    #[error("the application was not imported within {} s (`start_timeout`)", .0.as_secs())]
    Slow(Duration),
}

/// What a worker is started with.
pub struct Start<'a> {
    /// What to run.
    pub launch: &'a Launch,
    /// How many lanes it gets.
    pub lanes: usize,
    /// Unique number.
    pub id: u64,
    /// How long the import may take.
    pub patience: Duration,
    /// How long its interpreter may give no sign of life.
    pub deadlock: Duration,
    /// Requests after which it is to be replaced.
    pub max_requests: Option<u64>,
    /// Where its words go.
    pub log: AppLog,
    /// Who wants to know where its modules come from.
    pub places: Option<Places>,
    /// For log times.
    pub clock: Clock,
}

impl Worker {
    /// Starts a process and waits until its application is imported.
    ///
    /// # Errors
    /// See [`BootError`]; nothing is left running.
    pub async fn boot(start: Start<'_>) -> Result<Self, BootError> {
        let Launched { mut child, control, lanes } = start.launch.spawn(start.lanes).await?;
        let output = output_of(&mut child);
        Self::bring_up(start, (Process::Started(child), control, lanes), output, None).await
    }

    /// Waits until a process that was started says that its application is imported. `parent` is the one that it was
    /// forked from.
    ///
    /// # Errors
    /// See [`BootError`]; nothing is left running.
    pub(super) async fn bring_up(
        start: Start<'_>,
        (mut process, control, lanes): (Process, std::os::unix::net::UnixStream, Vec<LaneSockets>),
        output: Output,
        parent: Option<Arc<Parent>>,
    ) -> Result<Self, BootError> {
        let pid = process.pid();
        let words = LastWords::default();
        let log = start.log.of_worker(pid, start.clock);
        let pipes = copy_output(output, &log, &words);
        let mut control = Control::new(control, log, start.places)?;
        let (ready, pipes) = control.boot(&mut process, start.patience, pipes, &words).await?;
        let (commands, commanded) = mpsc::unbounded_channel();
        let (stop, stopped) = mpsc::unbounded_channel();
        let (ended, ending) = watch::channel(None);
        let shared = Arc::new(WorkerShared::new(
            start.id,
            start.launch.boot.application.as_str().into(),
            start.launch.key(),
            start.launch.boot.threads,
            start.max_requests,
            commands,
        ));
        tokio::spawn(async move {
            let how = control.attend(&mut process, commanded, stopped, Pulse::new(start.deadlock)).await;
            let words = died_words(how, pipes, &words).await;
            let _ = ended.send(Some(words));
            drop(parent);
        });
        Ok(Self { shared, lanes, pid, ready, ending, stop })
    }

    /// Waits until the process is gone and tells how it went: `exited with status 0`, `was killed by SIGKILL`.
    pub fn ended(&self) -> impl Future<Output = String> + use<> {
        let mut ending = self.ending.clone();
        async move {
            match ending.wait_for(Option::is_some).await {
                Ok(words) => words.clone().unwrap_or_default(),
                Err(_) => "was lost".to_owned(),
            }
        }
    }

    /// Lets it finish what it holds, up to `patience`, then run its exit handlers, then ends it. Tells how it went.
    pub async fn stop(&self, patience: Duration) -> String {
        if tokio::time::timeout(patience, self.shared.drained()).await.is_err() {
            tracing::warn!(application = %self.shared.application, pid = self.pid, "requests were still running when the time to stop was up");
        }
        let _ = self.stop.send(());
        self.ended().await
    }

    /// Ends it without waiting.
    pub fn kill(&self, why: &'static str) {
        self.shared.command(WorkerCommand::Replace(why));
    }
}

/// A worker that nobody has any more, because its application was removed while it started, must not go on by itself.
impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.command(WorkerCommand::Replace("nobody wants it any more"));
    }
}

/// Our end of a worker's control socket.
pub(super) struct Control {
    pub(super) socket: UnixStream,
    pub(super) input: BytesMut,
    pub(super) pace: Pace,
    log: WorkerLog,
    places: Option<Places>,
}

impl Control {
    pub(super) fn new(
        socket: std::os::unix::net::UnixStream,
        log: WorkerLog,
        places: Option<Places>,
    ) -> Result<Self, LaunchError> {
        let io = |source| LaunchError::Io { what: "control socket".into(), source };
        socket.set_nonblocking(true).map_err(io)?;
        let socket = UnixStream::from_std(socket).map_err(io)?;
        Ok(Self { socket, input: BytesMut::new(), pace: Pace::default(), log, places })
    }

    /// Waits until there is something to read, and it is this process' turn.
    pub(super) async fn readable(&mut self) -> std::io::Result<()> {
        self.pace.rest().await;
        self.socket.readable().await
    }

    /// Waits until the process says that its application is imported; ends it if that does not come.
    pub(super) async fn boot(
        &mut self,
        process: &mut Process,
        patience: Duration,
        pipes: Pipes,
        words: &LastWords,
    ) -> Result<(Ready, Pipes), BootError> {
        let error = match tokio::time::timeout(patience, self.until_ready()).await {
            Ok(Some(Ok(ready))) => return Ok((ready, pipes)),
            Ok(Some(Err(traceback))) => BootError::Import(traceback),
            Ok(None) => return Err(BootError::Died(died(process, pipes, words).await)),
            Err(_) => BootError::Slow(patience),
        };
        process.signal(Signal::KILL);
        process.wait().await;
        Err(error)
    }

    /// Waits for the word that the application is imported: `None` when the worker went away first.
    async fn until_ready(&mut self) -> Option<Result<Ready, String>> {
        loop {
            let frame = self.next().await?;
            match frame.kind {
                Kind::Ready => return Ready::parse(&frame.payload).ok().map(Ok),
                Kind::BootError => return Some(Err(String::from_utf8_lossy(&frame.payload).into_owned())),
                Kind::Log => self.take_log(&frame)?,
                Kind::Modules => {
                    let modules = Modules::parse(&frame.payload).ok()?;
                    if let Some(places) = &self.places {
                        places.add(modules.0);
                    }
                }
                _ => return None,
            }
        }
    }

    /// Serves a running worker until its process is gone.
    async fn attend(
        &mut self,
        process: &mut Process,
        mut commands: mpsc::UnboundedReceiver<WorkerCommand>,
        mut stop: mpsc::UnboundedReceiver<()>,
        mut pulse: Pulse,
    ) -> Ending {
        let mut listening = true;
        let mut stopping = false;
        let mut deadline = None;
        let mut replaced = None;
        loop {
            tokio::select! {
                status = process.wait() => return Ending { status, replaced },
                frame = self.next(), if listening => {
                    let fine = frame.and_then(|frame| match frame.kind {
                        Kind::Log => self.take_log(&frame),
                        Kind::Pong => {
                            pulse.felt();
                            Some(())
                        }
                        _ => None,
                    });
                    // A worker that closed its control socket, or spoke out of turn on it, is on its way out.
                    if fine.is_none() {
                        listening = false;
                        deadline.get_or_insert_with(|| (Instant::now() + EXIT_GRACE, Next::Kill));
                    }
                }
                Some(command) = commands.recv() => match command {
                    WorkerCommand::Interrupt { lane, request } => {
                        if !self.interrupt(Interrupt { lane, request }) {
                            replaced = Some("it does not listen to its control socket");
                            process.signal(Signal::KILL);
                        }
                    }
                    WorkerCommand::LaneClosed => {
                        deadline.get_or_insert_with(|| (Instant::now() + LANE_GRACE, Next::Kill));
                    }
                    WorkerCommand::Replace(why) => {
                        replaced = Some(why);
                        process.signal(Signal::KILL);
                    }
                    WorkerCommand::Abort(why) => {
                        replaced.get_or_insert(why);
                        deadline = Some((abort(process), Next::Kill));
                    }
                },
                () = tokio::time::sleep_until(pulse.look), if listening && !stopping && replaced.is_none() => {
                    if pulse.is_lost() {
                        replaced = Some("its interpreter gave no sign of life (`deadlock_timeout`); its stacks are in its log");
                        deadline = Some((abort(process), Next::Kill));
                    } else if pulse.ask() {
                        // One that does not take it is not alive either, and is found out by its silence.
                        self.say_empty(Kind::Ping);
                    }
                }
                Some(()) = stop.recv(), if !stopping => {
                    stopping = true;
                    // One that cannot be told is ended by signals.
                    let patience = if self.say_empty(Kind::Stop) { EXIT_GRACE } else { Duration::ZERO };
                    deadline = Some((Instant::now() + patience, Next::Terminate));
                }
                () = until(deadline.map(|(at, _)| at)), if deadline.is_some() => {
                    match deadline.take() {
                        Some((_, Next::Terminate)) => {
                            process.signal(Signal::TERM);
                            deadline = Some((Instant::now() + EXIT_GRACE, Next::Kill));
                        }
                        _ => { process.signal(Signal::KILL); }
                    }
                }
            }
        }
    }

    async fn next(&mut self) -> Option<Frame> {
        loop {
            match take_frame(&mut self.input) {
                Ok(Some(frame)) => return Some(frame),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, "a worker broke the protocol on its control socket");
                    return None;
                }
            }
            self.pace.rest().await;
            self.input.reserve(READ);
            match self.socket.read_buf(&mut self.input).await.ok()? {
                0 => return None,
                read => self.pace.took(read),
            }
        }
    }

    pub(super) fn take_log(&self, frame: &Frame) -> Option<()> {
        let log = Log::parse(&frame.payload).ok()?;
        let source = match log.source {
            Source::Out => "stdout",
            Source::Err => "stderr",
            Source::Errors => "wsgi.errors",
            Source::Warning => "warning",
            Source::Error => "error",
        };
        self.log.write(source, log.level, log.thread, log.request_id, log.text);
        Some(())
    }

    fn interrupt(&self, interrupt: Interrupt) -> bool {
        let mut message = BytesMut::new();
        let start = begin(&mut message, 0, Kind::Interrupt);
        interrupt.put(&mut message);
        end(&mut message, start);
        self.say(&message)
    }

    pub(super) fn say_empty(&self, kind: Kind) -> bool {
        let mut message = BytesMut::new();
        put_empty(&mut message, 0, kind);
        self.say(&message)
    }

    /// Says something whole, or not at all: a worker that does not listen must not be waited for.
    fn say(&self, message: &[u8]) -> bool {
        self.socket.try_write(message).is_ok_and(|written| written == message.len())
    }
}

/// Whether a worker's interpreter is alive: it is asked now and then, and a thread of it needs the GIL to answer.
struct Pulse {
    timeout: Duration,
    /// Since when an answer is waited for.
    asked: Option<Instant>,
    /// When to look again.
    look: Instant,
}

impl Pulse {
    fn new(timeout: Duration) -> Self {
        Self { timeout, asked: None, look: Instant::now() + timeout / 4 }
    }

    fn felt(&mut self) {
        self.asked = None;
    }

    fn is_lost(&self) -> bool {
        self.asked.is_some_and(|asked| asked.elapsed() >= self.timeout)
    }

    /// Whether to ask now; looks again in any case.
    fn ask(&mut self) -> bool {
        let now = Instant::now();
        self.look = now + self.timeout / 4;
        let asks = self.asked.is_none();
        self.asked.get_or_insert(now);
        asks
    }
}

#[derive(Clone, Copy)]
enum Next {
    Terminate,
    Kill,
}

struct Ending {
    status: Option<ExitStatus>,
    replaced: Option<&'static str>,
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Ends a worker by the signal at which `faulthandler` writes the stacks of all threads, for which it needs no GIL. Tells
/// when to stop waiting for that.
fn abort(process: &Process) -> Instant {
    process.signal(Signal::ABORT);
    Instant::now() + DUMP_GRACE
}

/// Who copies what a process writes to standard output and error.
type Pipes = [Option<JoinHandle<()>>; 2];

async fn died(process: &mut Process, pipes: Pipes, words: &LastWords) -> String {
    process.signal(Signal::KILL);
    let status = process.wait().await;
    died_words(Ending { status, replaced: None }, pipes, words).await
}

/// How the process ended, with the last lines of its standard error when it did not end well.
async fn died_words(ending: Ending, pipes: Pipes, words: &LastWords) -> String {
    for mut pipe in pipes.into_iter().flatten() {
        // A grandchild may keep the pipe open. What it says for a while still reaches the log; not for ever, because each
        // pipe is a descriptor of ours.
        if tokio::time::timeout(LAST_OUTPUT, &mut pipe).await.is_err() {
            tokio::spawn(async move {
                if tokio::time::timeout(AFTERWARDS, &mut pipe).await.is_err() {
                    pipe.abort();
                }
            });
        }
    }
    let how = match (ending.status, ending.replaced) {
        (_, Some(why)) => return format!("was killed by the gate because {why}"),
        (None, None) => "was lost".to_owned(),
        (Some(status), None) => describe(status),
    };
    let words = words.take();
    if ending.status.is_some_and(|status| status.success()) || words.is_empty() {
        how
    } else {
        format!("{how}; it last said:\n{words}")
    }
}

/// The last lines of standard error.
#[derive(Clone, Default)]
pub(super) struct LastWords(Arc<Mutex<VecDeque<String>>>);

impl LastWords {
    fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LAST_WORDS {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    fn take(&self) -> String {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *lines).into_iter().collect::<Vec<_>>().join("\n")
    }
}

/// What a process writes to standard output and error.
pub(super) type Output = [Option<Box<dyn AsyncRead + Send + Unpin>>; 2];

/// The pipes of a process that has just been started.
pub(super) fn output_of(child: &mut Child) -> Output {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    [out.map(|pipe| Box::new(pipe) as _), err.map(|pipe| Box::new(pipe) as _)]
}

/// Copies both to the log beside everything else, until they are closed.
pub(super) fn copy_output([out, err]: Output, log: &WorkerLog, words: &LastWords) -> Pipes {
    let copy = |pipe, stream, words| tokio::spawn(copy_lines(pipe, log.clone(), stream, words));
    [out.map(|pipe| copy(pipe, "stdout", None)), err.map(|pipe| copy(pipe, "stderr", Some(words.clone())))]
}

/// Copies a pipe to the log, line by line; a longer line than [`MAX_LINE`] is cut into several.
async fn copy_lines(pipe: impl AsyncRead + Unpin, log: WorkerLog, stream: &'static str, words: Option<LastWords>) {
    let mut reader = BufReader::new(pipe);
    let (mut line, mut pace) = (Vec::new(), Pace::default());
    loop {
        line.clear();
        pace.rest().await;
        match (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(read) => pace.took(read),
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\n', '\r']);
        if let Some(words) = &words {
            words.push(text);
        }
        log.write(stream, text.starts_with(FATAL).then_some(Level::Critical), "", "", text);
    }
}
