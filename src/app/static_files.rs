//! The files below an application's `static/` directory, at `<mount>/static/`.
//!
//! They are behind the same permit as everything else. tower-http serves them (types, ETag and Last-Modified,
//! conditional and range requests, precompressed siblings); this module decides *which* file that may be: no dotfile,
//! nothing outside the directory by any link.

use std::path::{Path, PathBuf};

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use tower_http::services::ServeDir;

use crate::{
    app::{Inbound, body::Body},
    model::Reason,
    policy::Permit,
};

/// Where the files are, below the application's directory and below its mount.
const FOLDER: &str = "static";

/// The file that a permitted path asks for, relative to the static directory; `None` when it is the application's.
#[must_use]
pub fn asked_for(permit: &Permit) -> Option<String> {
    permit.path_info().strip_prefix("/static/").map(str::to_owned)
}

/// Serves one file.
///
/// # Errors
/// [`Reason::NoFile`] for everything that is not a plain file inside the directory, so that nobody learns what else is
/// there; [`Reason::HttpMethodRefused`] for anything but GET and HEAD.
pub async fn serve(permit: &Permit, file: &str, inbound: Inbound) -> Result<Response<Body>, Reason> {
    if !matches!(inbound.parts.method, Method::GET | Method::HEAD) {
        return Err(Reason::HttpMethodRefused);
    }
    let root = permit.app().directory.join(FOLDER);
    let file = file.to_owned();
    let (root, inside) = tokio::task::spawn_blocking(move || locate(&root, &file))
        .await
        .map_err(|_| Reason::Internal)?
        .ok_or(Reason::NoFile)?;

    let mut request = Request::builder().method(inbound.parts.method.clone()).uri(uri_of(&inside)?);
    for name in [
        header::ACCEPT_ENCODING,
        header::IF_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_NONE_MATCH,
        header::IF_RANGE,
        header::IF_UNMODIFIED_SINCE,
        header::RANGE,
    ] {
        for value in inbound.parts.headers.get_all(&name) {
            request = request.header(&name, value);
        }
    }
    let request = request.body(()).map_err(|_| Reason::Internal)?;
    let mut files = ServeDir::new(root)
        .append_index_html_on_directories(false)
        .precompressed_br()
        .precompressed_gzip()
        .precompressed_zstd()
        .ignore_multi_range_requests(true);
    let response = files.try_call(request).await.map_err(|error| {
        tracing::error!(%error, "a static file could not be read");
        Reason::NoFile
    })?;
    if response.status() == StatusCode::NOT_FOUND {
        return Err(Reason::NoFile);
    }
    Ok(finish(response.map(Body::file)))
}

fn finish(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    // Behind sign-in: shared caches must not hand it to others, and a browser asks whether it is still fresh.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    headers.entry(header::SERVER).or_insert(HeaderValue::from_static("Portcullis"));
    response
}

/// The real directory and the real file's path inside it. Links are followed first and judged by where they end, so
/// neither `..` nor a symlink leads out; a precompressed sibling is judged in the same way.
fn locate(root: &Path, file: &str) -> Option<(PathBuf, PathBuf)> {
    if file.is_empty() || file.ends_with('/') || file.split('/').any(|segment| segment.starts_with('.')) {
        return None;
    }
    let root = root.canonicalize().ok()?;
    let real = root.join(file).canonicalize().ok()?;
    let inside = real.strip_prefix(&root).ok()?.to_owned();
    let hidden = inside.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"."));
    let siblings_stay = ["br", "gz", "zst"].iter().all(|extension| {
        let mut sibling = real.clone().into_os_string();
        sibling.push(".");
        sibling.push(extension);
        Path::new(&sibling).canonicalize().map_or(true, |sibling| sibling.starts_with(&root))
    });
    (real.is_file() && !hidden && siblings_stay).then_some((root, inside))
}

/// The path as a URI that decodes to it.
fn uri_of(inside: &Path) -> Result<Uri, Reason> {
    let mut uri = String::new();
    for part in inside.components() {
        uri.push('/');
        for &byte in part.as_os_str().as_encoded_bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                uri.push(char::from(byte));
            } else {
                uri.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    uri.parse().map_err(|_| Reason::NoFile)
}
