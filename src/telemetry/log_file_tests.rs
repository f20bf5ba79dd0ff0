//! What is handed over is written, in order and whole; what is not is admitted to.

use std::{
    os::unix::fs::PermissionsExt as _,
    sync::{atomic::AtomicI64, mpsc},
    time::Instant,
};

use super::*;

struct Desk {
    directory: tempfile::TempDir,
    time: Arc<AtomicI64>,
    complaints: mpsc::Receiver<String>,
    writer: LogWriter,
}

impl Desk {
    fn new() -> Self {
        let time = Arc::new(AtomicI64::new(1_800_000_000_000));
        let (complaint, complaints) = mpsc::channel();
        let complain = Box::new(move |text: &str| complaint.send(text.to_owned()).unwrap());
        let writer = LogWriter::start_complaining(Clock::Manual(Arc::clone(&time)), complain);
        Self { directory: tempfile::tempdir().unwrap(), time, complaints, writer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        self.writer.flush();
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }
}

#[test]
fn lines_of_many_threads_arrive_whole_and_in_order() {
    let desk = Desk::new();
    let log = desk.writer.open(&desk.path("logs/access.log"), 1 << 30, 3);
    thread::scope(|scope| {
        for thread in 0..4 {
            let log = log.clone();
            scope.spawn(move || {
                for number in 0..1000 {
                    log.write_lines(format!("{thread} {number}\n{thread} {number} again\n").into_bytes());
                }
            });
        }
    });
    let text = desk.read("logs/access.log");
    for thread in 0..4 {
        let begins = format!("{thread} ");
        let own: Vec<&str> = text.lines().filter(|line| line.starts_with(&begins)).collect();
        let expected: Vec<String> =
            (0..1000).flat_map(|n| [format!("{thread} {n}"), format!("{thread} {n} again")]).collect();
        assert_eq!(own, expected);
    }
    assert_eq!(log.lost(), 0);
    let mode = |path: &str| fs::metadata(desk.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("logs/access.log") & !FILE_MODE, 0, "no more than 0640 whatever the umask");
    assert_eq!(mode("logs") & !DIRECTORY_MODE, 0);
}

#[test]
fn files_rotate_between_lines_and_old_ones_go() {
    let desk = Desk::new();
    let log = desk.writer.open(&desk.path("a.log"), 100, 2);
    for number in 0..40 {
        log.write_lines(format!("line {number:02} of twenty..\n").into_bytes());
    }
    desk.writer.flush();
    let mut all = String::new();
    for name in ["a.log.2", "a.log.1", "a.log"] {
        let text = desk.read(name);
        assert!(text.len() <= 100 && text.ends_with('\n'), "{name}: {text}");
        all += &text;
    }
    assert!(all.ends_with("line 39 of twenty..\n") && all.lines().all(|line| line.len() == 19), "{all}");
    assert_eq!(fs::read_dir(desk.directory.path()).unwrap().count(), 3);
    let single = desk.writer.open(&desk.path("single.log"), 10, 0);
    single.write_lines(b"12345678\n".to_vec());
    single.write_lines(b"abcdefgh\n".to_vec());
    assert_eq!(desk.read("single.log"), "abcdefgh\n");
}

#[test]
fn what_was_there_before_is_kept_and_counted() {
    let desk = Desk::new();
    fs::write(desk.path("a.log"), "yesterday\n").unwrap();
    let log = desk.writer.open(&desk.path("a.log"), 20, 1);
    log.write_lines(b"today\n".to_vec());
    assert_eq!(desk.read("a.log"), "yesterday\ntoday\n");
    log.write_lines(b"tomorrow\n".to_vec());
    assert_eq!((desk.read("a.log.1"), desk.read("a.log")), ("yesterday\ntoday\n".to_owned(), "tomorrow\n".to_owned()));
}

#[test]
fn the_same_path_is_the_same_file_and_reopening_follows_a_move() {
    let desk = Desk::new();
    let (one, two) = (desk.writer.open(&desk.path("a.log"), 100, 1), desk.writer.open(&desk.path("a.log"), 100, 1));
    assert!(Arc::ptr_eq(&one.file, &two.file));
    one.write_lines(b"1\n".to_vec());
    desk.writer.flush();
    fs::rename(desk.path("a.log"), desk.path("moved.log")).unwrap();
    two.write_lines(b"2\n".to_vec());
    desk.writer.flush();
    desk.writer.reopen();
    one.write_lines(b"3\n".to_vec());
    assert_eq!((desk.read("moved.log"), desk.read("a.log")), ("1\n2\n".to_owned(), "3\n".to_owned()));
}

#[test]
fn a_directory_that_cannot_be_made_is_complained_about_once_a_minute_and_the_loss_is_admitted() {
    let desk = Desk::new();
    fs::write(desk.path("logs"), "a file is in the way").unwrap();
    let log = desk.writer.open(&desk.path("logs/a.log"), 1000, 1);
    for _ in 0..3 {
        log.write_lines(b"one\ntwo\n".to_vec());
        desk.writer.flush();
    }
    assert_eq!((log.lost(), desk.complaints.try_iter().count()), (6, 1));
    desk.time.fetch_add(60_000, Ordering::SeqCst);
    log.write_lines(b"three\n".to_vec());
    desk.writer.flush();
    let complaint = desk.complaints.try_recv().unwrap();
    assert!(complaint.contains("logs/a.log: lines are being lost: "), "{complaint}");
    fs::remove_file(desk.path("logs")).unwrap();
    log.write_lines(b"four\n".to_vec());
    let text = desk.read("logs/a.log");
    let (admitted, rest) = text.split_once('\n').unwrap();
    let admitted: serde_json::Value = serde_json::from_str(admitted).unwrap();
    assert_eq!((admitted["lost"].as_u64(), rest, log.lost()), (Some(7), "four\n", 0));
}

#[test]
fn a_full_disk_loses_lines_and_says_so() {
    let desk = Desk::new();
    let log = desk.writer.open(Path::new("/dev/full"), 1 << 20, 1);
    log.write_lines(b"one\n".to_vec());
    desk.writer.flush();
    assert_eq!(log.lost(), 1);
    assert!(desk.complaints.try_recv().unwrap().contains("No space left"));
}

#[test]
fn more_than_can_wait_is_lost_and_counted_without_waiting() {
    // A writer that nobody started: nothing is ever written.
    let shared = Shared { queue: Mutex::new(Queue::default()), bell: Condvar::new(), limit: 1000 };
    let writer = LogWriter { shared: Arc::new(shared), thread: None };
    let log = writer.open(Path::new("never.log"), 1000, 1);
    log.write_lines(vec![b'\n'; 990]);
    log.write_lines(b"a\nb\nc\nd\ne\nf\n".to_vec());
    assert_eq!(log.lost(), 6);
    log.write_lines(b"fits\n".to_vec());
    assert_eq!(log.lost(), 6);
}

#[test]
fn one_file_that_is_flooded_costs_no_other_its_lines() {
    let shared = Shared { queue: Mutex::new(Queue::default()), bell: Condvar::new(), limit: 1000 };
    let writer = LogWriter { shared: Arc::new(shared), thread: None };
    let flooded = writer.open(Path::new("flooded.log"), 1000, 1).at_most(100);
    let other = writer.open(Path::new("other.log"), 1000, 1);
    for _ in 0..1000 {
        flooded.write_lines(b"123456789\n".to_vec());
    }
    other.write_lines(vec![b'\n'; 900]);
    assert_eq!((flooded.lost(), other.lost()), (990, 0));
    assert_eq!(writer.shared.take().map(|batches| batches.len()), Some(11));
    flooded.write_lines(b"room again\n".to_vec());
    assert_eq!(flooded.lost(), 990);
}

#[test]
fn everything_is_written_at_the_end_and_nothing_after_it() {
    let desk = Desk::new();
    let log = desk.writer.open(&desk.path("a.log"), 1 << 20, 1);
    let path = desk.path("a.log");
    for number in 0..5000 {
        log.write_lines(format!("{number}\n").into_bytes());
    }
    desk.writer.finish();
    assert_eq!(fs::read_to_string(path).unwrap().lines().count(), 5000);
    log.write_lines(b"too late\n".to_vec());
    assert_eq!(log.lost(), 1);
}

#[test]
fn handing_over_costs_the_caller_little() {
    let desk = Desk::new();
    let log = desk.writer.open(&desk.path("a.log"), 1 << 30, 1);
    let batch = b"{\"time\":\"2026-11-22T17:42:00.123Z\",\"path\":\"/notes/\",\"status\":200}\n".repeat(32);
    let batches: Vec<Vec<u8>> = vec![batch; 500];
    let begin = Instant::now();
    for batch in batches {
        log.write_lines(batch);
    }
    let per_line = begin.elapsed() / (500 * 32);
    assert_eq!(log.lost(), 0);
    println!("{per_line:?} per line, in batches of 32");
    // A tenth of a microsecond here; the bound leaves room for a debug build on a busy machine.
    assert!(per_line < Duration::from_micros(3), "{per_line:?}");
}
