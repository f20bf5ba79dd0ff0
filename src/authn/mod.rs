//! Who is it?
pub mod hashing;
pub mod jwt;
pub mod password;
pub mod token;
