//! Values that several files have: networks, paths, environment variables.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Component, Path, PathBuf},
};

use ipnet::IpNet;

use super::{Table, Value, shown};

/// An address or a network, exactly as it is compared.
///
/// # Errors
/// What is neither, or could be meant in two ways; in words that follow the quoted text.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let network = network.map_err(|_| "is not a network".to_owned())?;
    if matches!(network, IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some()) {
        return Err("is IPv4 in the dress of IPv6; write it as IPv4".to_owned());
    }
    if network.addr() != network.network() {
        return Err(format!("has bits beyond its length; did you mean `{}`?", network.trunc()));
    }
    Ok(network)
}

/// A table of environment variables; what cannot be one is reported.
#[must_use]
pub fn environment(table: &Table<'_>) -> BTreeMap<String, String> {
    table.entries().iter().filter_map(|value| Some((variable(value)?, text_without_nul(value)?))).collect()
}

/// What the gate itself says to an application, which no file may say in its place.
const RESERVED: &str = "PORTCULLIS_";

fn variable(value: &Value<'_>) -> Option<String> {
    let key = value.key();
    let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if key.is_empty() || !plain || key.starts_with(|c: char| c.is_ascii_digit()) {
        value.key_error(format!("`{}` is not the name of a variable", shown(key)), "letters, digits and _");
        return None;
    }
    if key.starts_with(RESERVED) {
        value.key_error(
            format!("`{key}` is set by the gate itself"),
            "variables that begin with PORTCULLIS_ are reserved",
        );
        return None;
    }
    Some(key.to_owned())
}

fn text_without_nul(value: &Value<'_>) -> Option<String> {
    let text = value.string()?;
    if text.contains('\0') {
        value.error(format!("`{}` has a NUL character", value.key()), "no environment can hold one");
        return None;
    }
    Some(text.to_owned())
}

/// A path as a file means it, without `.` and `..`. `base` is canonical, so leaving out `..` stays where the kernel would go.
#[must_use]
pub fn absolute(base: &Path, path: &str) -> PathBuf {
    let mut out = base.to_path_buf();
    for component in Path::new(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(out.pop()),
            component => out.push(component),
        }
    }
    out
}

/// A name that is a directory of that name and nothing else on every file system.
#[must_use]
pub fn is_namespace(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    name.len() <= 64 && name.bytes().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}
