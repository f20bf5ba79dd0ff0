//! From the bootstrap to the first request, and out again.
//!
//! The spawn contract: descriptor 0 is the control socket, 1 and 2 are pipes into the application's log, directory and
//! environment are set. The gateway sends [`Kind::Boot`] and [`Kind::Lanes`]; the answer is [`Kind::Ready`] or
//! [`Kind::BootError`]. `main` returns when the gateway says [`Kind::Stop`] and the last request is done, so that Python
//! shuts down as it would after any script: non-daemon threads are joined, `atexit` runs.

use std::{
    os::fd::{AsRawFd, IntoRawFd, OwnedFd},
    sync::{OnceLock, mpsc},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use portcullis_wire::{Boot, Interrupt, Kind, Malformed, Modules, Ready, u32_payload};
use pyo3::{
    exceptions::{PyOSError, PyRuntimeError},
    ffi::c_str,
    prelude::*,
    types::{PyDict, PyList},
};
use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Signal, getpid, kill_process, set_parent_process_death_signal},
};

use crate::{
    control::{self, Inbox, MAX_LANES, adopt_stdin},
    crew::{self, Crew, crew},
    lane::Lane,
    logs, nursery,
    run::serve,
};

/// How long a worker whose gateway has vanished may take to finish: nobody will read its answers.
const ORPHAN_GRACE: Duration = Duration::from_secs(5);

/// Exit status after [`Kind::BootError`].
const BOOT_ERROR: i32 = 3;

/// What the threads run.
static SERVICE: OnceLock<(Py<PyAny>, Boot)> = OnceLock::new();

/// The whole life of a worker.
#[pyfunction]
pub(crate) fn main(py: Python<'_>) -> PyResult<()> {
    adopt_stdin().map_err(broken)?;
    // Whoever dies between spawning us and this line is noticed by the control socket, which then is closed.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(broken)?;
    prepare_interpreter(py)?;
    let control = control::control().ok_or_else(|| PyRuntimeError::new_err("no control socket"))?;
    let mut inbox = Inbox::new();
    let Some((boot, mut lanes)) = py.detach(|| receive_orders(control, &mut inbox)).map_err(broken)? else {
        return Ok(());
    };
    logs::install(py)?;
    let began = Instant::now();
    let application = match load(py, &boot) {
        Ok(application) => application,
        Err(text) => {
            logs::finish_printed(py);
            py.detach(|| control.send(Kind::BootError, logs::cut(&text).as_bytes()));
            // Threads that a half-imported application has left behind must not keep the process.
            return leave_at_once(py, BOOT_ERROR);
        }
    };
    let import_ms = u32::try_from(began.elapsed().as_millis()).unwrap_or(u32::MAX);
    if boot.preload {
        say_ready(py, import_ms);
        match nursery::tend(py, control, &mut inbox)? {
            Some(own) => lanes = own,
            // Never served, so it has nothing to finish or to flush; its children have exit handlers of their own.
            None => return leave_at_once(py, 0),
        }
    }
    let (threads, crew) = start_crew(py, application, boot, lanes, inbox)?;
    say_ready(py, import_ms);
    start_threads(py, threads)?;
    serve_seat(py, crew, 0)
}

fn say_ready(py: Python<'_>, import_ms: u32) {
    let version = py.version_info();
    let python = format!("{}.{}.{}", version.major, version.minor, version.patch);
    let mut payload = BytesMut::new();
    Ready { python, import_ms }.put(&mut payload);
    if let Some(control) = control::control() {
        py.detach(|| control.send(Kind::Ready, &payload));
    }
}

fn leave_at_once(py: Python<'_>, status: i32) -> PyResult<()> {
    py.import("os")?.call_method1("_exit", (status,)).map(|_| ())
}

/// Runs requests in one of the further threads.
#[pyfunction]
fn serve_thread(py: Python<'_>, seat: usize) -> PyResult<()> {
    crew().map_or(Ok(()), |crew| serve_seat(py, crew, seat))
}

fn serve_seat(py: Python<'_>, crew: &'static Crew, seat: usize) -> PyResult<()> {
    let (application, boot) = SERVICE.get().ok_or_else(|| PyRuntimeError::new_err("nothing to serve"))?;
    serve(py, crew, seat, application, boot)
}

fn prepare_interpreter(py: Python<'_>) -> PyResult<()> {
    let all_threads = PyDict::new(py);
    all_threads.set_item("all_threads", true)?;
    py.import("faulthandler")?.call_method("enable", (2,), Some(&all_threads))?;
    // Ctrl-C reaches the whole process group; the gateway decides what it means.
    let signal = py.import("signal")?;
    signal.call_method1("signal", (signal.getattr("SIGINT")?, signal.getattr("SIG_IGN")?))?;
    py.import("sys")?.setattr("argv", PyList::new(py, [""])?)?;
    let hook = PyDict::new(py);
    hook.set_item("after_in_child", wrap_pyfunction!(control::after_fork, py)?)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&hook))?;
    Ok(())
}

/// `None` when the gateway went away first.
fn receive_orders(control: &control::Control, inbox: &mut Inbox) -> rustix::io::Result<Option<(Boot, Vec<Lane>)>> {
    let wrong = |_: Malformed| rustix::io::Errno::PROTO;
    let Some(frame) = control.receive(inbox).filter(|frame| frame.kind == Kind::Boot) else { return Ok(None) };
    let boot = Boot::parse(&frame.payload).map_err(wrong)?;
    let Some(frame) = control.receive(inbox).filter(|frame| frame.kind == Kind::Lanes) else { return Ok(None) };
    let count = u32_payload(&frame.payload).map_err(wrong)? as usize;
    let lanes = Lane::of_pairs(std::mem::take(&mut inbox.attached));
    // A process that others are forked from has none.
    let fits = if boot.preload { count == 0 } else { (1..=MAX_LANES).contains(&count) };
    if lanes.len() != count || !fits || boot.threads == 0 {
        return Err(rustix::io::Errno::PROTO);
    }
    Ok(Some((boot, lanes)))
}

/// Imports the application; the error is for people.
fn load(py: Python<'_>, boot: &Boot) -> Result<Py<PyAny>, String> {
    let code = c_str!(include_str!("load.py"));
    let loader = PyModule::from_code(py, code, c"<portcullis>", c"portcullis_load").map_err(|e| e.to_string())?;
    let adapter = include_str!("asgi.py");
    let loaded = loader.call_method1("load", (&boot.directory, &boot.module, &boot.callable, boot.asgi, adapter));
    let error = loaded.as_ref().err().map(|error| error.value(py));
    if boot.development {
        let directories = loader.call_method1("directories", (&boot.directory, error));
        say_modules(py, directories.and_then(|directories| directories.extract()).unwrap_or_default());
    }
    loaded.map(Bound::unbind).map_err(|error| {
        let explained = loader.call_method1("explain", (error.value(py),)).and_then(|text| text.extract());
        explained.unwrap_or_else(|_| error.to_string())
    })
}

/// Tells where modules came from, also those of an import that failed: the mistake may be in one of them.
fn say_modules(py: Python<'_>, directories: Vec<String>) {
    let Some(control) = control::control() else { return };
    let mut payload = BytesMut::new();
    Modules(directories).put(&mut payload);
    py.detach(|| control.send(Kind::Modules, &payload));
}

fn start_crew(
    py: Python<'_>,
    application: Py<PyAny>,
    boot: Boot,
    lanes: Vec<Lane>,
    inbox: Inbox,
) -> PyResult<(usize, &'static Crew)> {
    let threads = usize::from(boot.threads);
    let crew = crew::assemble(lanes, threads, follow_signals(py)?).map_err(broken)?;
    let _ = SERVICE.set((application, boot));
    let native = |name: &str| std::thread::Builder::new().name(name.to_owned()).stack_size(512 * 1024);
    py.detach(|| -> std::io::Result<()> {
        let (tell, told) = mpsc::channel();
        native("control").spawn(move || listen(crew, inbox, &tell))?;
        native("pulse").spawn(move || follow_orders(crew, &told))?;
        native("guard").spawn(|| crew.guard())?;
        Ok(())
    })?;
    Ok((threads, crew))
}

/// Has Python tell us when a signal has come, unless the application wants to be told itself.
fn follow_signals(py: Python<'_>) -> PyResult<Option<OwnedFd>> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(broken)?;
    let settings = PyDict::new(py);
    settings.set_item("warn_on_full_buffer", false)?;
    let signal = py.import("signal")?;
    let before: i32 = signal.call_method("set_wakeup_fd", (theirs.as_raw_fd(),), Some(&settings))?.extract()?;
    if before != -1 {
        signal.call_method("set_wakeup_fd", (before,), Some(&settings))?;
        return Ok(None);
    }
    // Python writes to it for the rest of the process's life.
    let _ = theirs.into_raw_fd();
    Ok(Some(ours))
}

fn start_threads(py: Python<'_>, threads: usize) -> PyResult<()> {
    let target = wrap_pyfunction!(serve_thread, py)?;
    for seat in 1..threads {
        let settings = PyDict::new(py);
        settings.set_item("target", &target)?;
        settings.set_item("args", (seat,))?;
        settings.set_item("name", format!("portcullis-{seat}"))?;
        py.import("threading")?.call_method("Thread", (), Some(&settings))?.call_method0("start")?;
    }
    Ok(())
}

/// What the control thread leaves to the pulse thread, because it needs the GIL.
enum Order {
    Interrupt(Interrupt),
    Ping,
}

/// The control thread: listens to the gateway until it is gone. It never waits for the GIL, so an order to stop gets
/// through whatever the application does.
fn listen(crew: &'static Crew, mut inbox: Inbox, pulse: &mpsc::Sender<Order>) {
    let Some(control) = control::control() else { return };
    while let Some(frame) = control.receive(&mut inbox) {
        let order = match frame.kind {
            Kind::Stop => {
                crew.stop();
                continue;
            }
            Kind::Interrupt => Interrupt::parse(&frame.payload).ok().map(Order::Interrupt),
            Kind::Ping => Some(Order::Ping),
            _ => None,
        };
        if let Some(order) = order {
            let _ = pulse.send(order);
        }
    }
    crew.stop();
    let end = Instant::now() + ORPHAN_GRACE;
    while let Some(rest) = end.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(rest);
    }
    // Nothing of Python may be able to delay this one.
    let _ = kill_process(getpid(), Signal::KILL);
}

/// The pulse thread: does what needs the GIL. When it does not get it any more, the gateway hears no pulse and replaces
/// the worker.
fn follow_orders(crew: &'static Crew, orders: &mpsc::Receiver<Order>) {
    while let Ok(order) = orders.recv() {
        match order {
            Order::Interrupt(interrupt) => {
                if crew.has(interrupt) {
                    Python::try_attach(|py| crew.interrupt(py, interrupt));
                }
            }
            Order::Ping => {
                // An interpreter that shuts down lets nobody in any more, and needs no watching.
                let alive = Python::try_attach(|_| {}).is_some();
                if let Some(control) = control::control().filter(|_| alive) {
                    control.send(Kind::Pong, &[]);
                }
            }
        }
    }
}

fn broken(error: rustix::io::Errno) -> PyErr {
    PyOSError::new_err(format!("portcullis: the worker cannot start: {error}"))
}
