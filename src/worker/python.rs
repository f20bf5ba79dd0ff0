//! The few things that only CPython's C interface can do, behind safe functions.

use std::{ffi::c_long, os::fd::BorrowedFd};

use pyo3::{exceptions::PyBaseException, ffi, prelude::*, types::PyString};

// From `BaseException`, because `except Exception` around a slow call is common and would swallow the interruption.
pyo3::create_exception!(
    portcullis_worker,
    RequestTimeout,
    PyBaseException,
    "Raised inside a request that has used up the time the gateway allows it."
);

/// A `str` whose code points are those bytes: what PEP 3333 calls a native string.
pub(crate) fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    let length = ffi::Py_ssize_t::try_from(bytes.len()).unwrap_or(0);
    // SAFETY: pointer and length describe `bytes`; the result is a new reference to a `str` or null, which panics.
    unsafe {
        let text = ffi::PyUnicode_DecodeLatin1(bytes.as_ptr().cast(), length, std::ptr::null());
        Bound::from_owned_ptr(py, text).cast_into_unchecked()
    }
}

/// What a `str` of code points up to 0xFF stands for, appended to `out`; false when it holds others.
pub(crate) fn push_latin1(out: &mut Vec<u8>, text: &str) -> bool {
    if text.is_ascii() {
        out.extend_from_slice(text.as_bytes());
        return true;
    }
    text.chars().all(|c| u8::try_from(c).map(|byte| out.push(byte)).is_ok())
}

/// Lends out an open descriptor by its number, as Python's `fileno` tells it.
pub(crate) fn with_descriptor<T>(number: i32, use_it: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
    // SAFETY: the caller holds the Python object that owns the descriptor and the GIL, so it stays open meanwhile; a
    // number that is not open after all is refused by the kernel and harms nothing of ours.
    use_it(unsafe { BorrowedFd::borrow_raw(number) })
}

/// Whether nobody else holds that object.
pub(crate) fn is_ours_alone<T>(_py: Python<'_>, object: &Py<T>) -> bool {
    // SAFETY: the pointer is that of a live object, and the GIL is held.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) == 1 }
}

/// Has `RequestTimeout` raised in that Python thread at its next bytecode.
pub(crate) fn raise_in(py: Python<'_>, thread: c_long) {
    let exception = py.get_type::<RequestTimeout>();
    // SAFETY: the GIL is held; the type outlives the call, which takes its own reference.
    unsafe { ffi::PyThreadState_SetAsyncExc(thread, exception.as_ptr()) };
}

/// Takes back an exception that [`raise_in`] left pending in that thread, so that it does not hit the next request.
pub(crate) fn unraise_in(_py: Python<'_>, thread: c_long) {
    // SAFETY: the GIL is held; null clears what is pending.
    unsafe { ffi::PyThreadState_SetAsyncExc(thread, std::ptr::null_mut()) };
}

/// The identity of the calling Python thread, as `threading.get_ident()` gives it.
pub(crate) fn thread_ident(py: Python<'_>) -> PyResult<c_long> {
    let ident: u64 = py.import("threading")?.call_method0("get_ident")?.extract()?;
    Ok(ident.cast_signed())
}

/// The traceback of an exception, as Python would print it.
pub(crate) fn traceback(py: Python<'_>, error: &PyErr) -> String {
    let format = || -> PyResult<String> {
        let lines = py
            .import("traceback")?
            .call_method1("format_exception", (error.get_type(py), error.value(py), error.traceback(py)))?;
        Ok(PyString::new(py, "").call_method1("join", (lines,))?.extract::<String>()?.trim_end().to_owned())
    };
    format().unwrap_or_else(|_| error.to_string())
}
