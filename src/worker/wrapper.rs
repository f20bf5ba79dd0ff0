//! `wsgi.file_wrapper`: hands a file over in blocks.

use pyo3::{intern, prelude::*, types::PyBytes};

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

impl FileWrapper {
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
