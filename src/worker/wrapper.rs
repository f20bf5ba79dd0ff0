//! `wsgi.file_wrapper`: hands a file over, as a descriptor where that is the same as reading it, else in blocks.

use std::os::fd::BorrowedFd;

use portcullis_wire::FileRange;
use pyo3::{
    intern,
    prelude::*,
    sync::PyOnceLock,
    types::{PyBytes, PyType},
};
use rustix::fs::{FileType, fstat};

use crate::python;

/// What a file is read by when the application does not say.
const BLOCK: usize = 64 * 1024;

/// The class in `environ`, a plain iterable to anybody but us.
#[pyclass(module = "portcullis_worker", frozen)]
pub(crate) struct FileWrapper {
    /// What the application opened, from its current position.
    #[pyo3(get)]
    filelike: Py<PyAny>,
    #[pyo3(get)]
    blksize: usize,
}

/// A regular file, whatever Python has wrapped around it, from where reading it would go on.
pub(crate) struct PlainFile<'py> {
    /// Keeps the descriptor open.
    raw: Bound<'py, PyAny>,
    pub(crate) rest: FileRange,
}

impl PlainFile<'_> {
    /// Lends the descriptor out.
    ///
    /// # Errors
    /// The application has closed the file.
    pub(crate) fn with_descriptor<T>(&self, py: Python<'_>, use_it: impl FnOnce(BorrowedFd<'_>) -> T) -> PyResult<T> {
        let number = self.raw.call_method0(intern!(py, "fileno"))?.extract()?;
        // `raw` is open, or `fileno` would have raised, and no Python code can close it before `use_it` returns.
        Ok(python::with_descriptor(number, use_it))
    }
}

/// The classes whose `read` gives the bytes of their descriptor and nothing else. Exactly these: `gzip.GzipFile` has a
/// `fileno` too, and that of the compressed file.
struct PlainTypes {
    file: Py<PyType>,
    buffered: [Py<PyType>; 2],
}

impl PlainTypes {
    fn get(py: Python<'_>) -> PyResult<&'static Self> {
        static TYPES: PyOnceLock<PlainTypes> = PyOnceLock::new();
        TYPES.get_or_try_init(py, || {
            let io = py.import("io")?;
            let class = |name: &str| Ok::<_, PyErr>(io.getattr(name)?.cast_into::<PyType>()?.unbind());
            Ok(Self { file: class("FileIO")?, buffered: [class("BufferedReader")?, class("BufferedRandom")?] })
        })
    }
}

impl FileWrapper {
    /// The file itself, if its bytes are what `read` would give.
    ///
    /// # Errors
    /// The file cannot be asked; reading it will say why.
    pub(crate) fn plain_file<'py>(&self, py: Python<'py>) -> PyResult<Option<PlainFile<'py>>> {
        let types = PlainTypes::get(py)?;
        let mut file = self.filelike.bind(py).clone();
        // What `tempfile.NamedTemporaryFile` gives: nothing but a name and a clean-up around a file.
        let class = file.get_type();
        if class.name()? == "_TemporaryFileWrapper" && class.module()? == "tempfile" {
            file = file.getattr(intern!(py, "file"))?;
        }
        let raw = if types.buffered.iter().any(|class| file.get_type().is(class)) {
            file.getattr(intern!(py, "raw"))?
        } else {
            file.clone()
        };
        if !raw.get_type().is(&types.file) {
            return Ok(None);
        }
        file.call_method0(intern!(py, "flush"))?;
        let offset: u64 = file.call_method0(intern!(py, "tell"))?.extract()?;
        let mut plain = PlainFile { raw, rest: FileRange { offset, length: 0 } };
        let Ok(status) = plain.with_descriptor(py, |file| fstat(file))? else { return Ok(None) };
        let size = u64::try_from(status.st_size).unwrap_or(0);
        plain.rest.length = size.saturating_sub(offset);
        Ok(Some(plain).filter(|_| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile))
    }

    /// The next block for the gateway, which does not care how small the application wanted them: Django asks for
    /// 4 KiB, and every block is a frame.
    pub(crate) fn next_large<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.read(py, self.blksize.max(BLOCK))
    }

    fn read<'py>(&self, py: Python<'py>, size: usize) -> PyResult<Option<Bound<'py, PyAny>>> {
        let block = self.filelike.bind(py).call_method1(intern!(py, "read"), (size,))?;
        let ends = block.cast::<PyBytes>().map_or(block.is_none(), |bytes| bytes.as_bytes().is_empty());
        Ok(Some(block).filter(|_| !ends))
    }
}

#[pymethods]
impl FileWrapper {
    #[new]
    #[pyo3(signature = (filelike, blksize = BLOCK))]
    fn new(filelike: Py<PyAny>, blksize: usize) -> Self {
        Self { filelike, blksize: blksize.max(1) }
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.read(py, self.blksize)
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        match self.filelike.bind(py).getattr_opt("close")? {
            Some(close) => close.call0().map(|_| ()),
            None => Ok(()),
        }
    }
}
