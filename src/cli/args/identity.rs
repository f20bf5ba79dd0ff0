//! `user`, `role`, `service` and `token` as written.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::super::parse::{self, Expiry};
use crate::model::Name;

/// `user …`
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Add a user
    ///
    /// On a terminal the password is asked for; otherwise one is made up and shown once.
    #[command(after_help = "Examples:\n  portcullis user add ann --role sales --email ann@example.org\n  \
                            portcullis user add bob --password-file -  < password.txt")]
    Add(UserAdd),
    /// Every user
    #[command(after_help = "Examples:\n  portcullis user list\n  portcullis --json user list | jq '.[].name'")]
    List,
    /// One user: roles, tokens, last sign-in
    #[command(after_help = "Examples:\n  portcullis user show ann")]
    Show(UserName),
    /// Replace a user's password
    #[command(after_help = "Examples:\n  portcullis user set-password ann\n  \
                            portcullis user set-password ann --password-file -  < password.txt")]
    SetPassword(SetPassword),
    /// Keep a user from signing in, from the next request on
    #[command(after_help = "Examples:\n  portcullis user disable ann")]
    Disable(UserName),
    /// Let a user sign in again
    #[command(after_help = "Examples:\n  portcullis user enable ann")]
    Enable(UserName),
    /// Remove a user with their roles and tokens
    #[command(after_help = "Examples:\n  portcullis user remove ann")]
    Remove(UserName),
    /// Give a user a role
    #[command(after_help = "Examples:\n  portcullis user grant ann sales")]
    Grant(Grant),
    /// Take a role from a user
    #[command(after_help = "Examples:\n  portcullis user revoke ann sales")]
    Revoke(Grant),
}

/// `user add`
#[derive(Debug, Args)]
pub struct UserAdd {
    /// Letters, digits and . _ - + @; case does not matter
    #[arg(value_name = "NAME", value_parser = parse::name)]
    pub name: Name,
    /// A role to give; may be repeated
    #[arg(long = "role", value_name = "ROLE", value_parser = parse::name)]
    pub roles: Vec<Name>,
    /// E-mail address
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    pub email: String,
    /// What to call them
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub display: String,
    /// Read the password from the first line of a file, `-` is standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub password_file: Option<PathBuf>,
}

/// Which user.
#[derive(Debug, Args)]
pub struct UserName {
    /// Their name
    #[arg(value_name = "NAME", value_parser = parse::name)]
    pub name: Name,
}

/// `user set-password`
#[derive(Debug, Args)]
pub struct SetPassword {
    /// Their name
    #[arg(value_name = "NAME", value_parser = parse::name)]
    pub name: Name,
    /// Read the password from the first line of a file, `-` is standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub password_file: Option<PathBuf>,
}

/// Who and which role.
#[derive(Debug, Args)]
pub struct Grant {
    /// Who
    #[arg(value_name = "NAME", value_parser = parse::name)]
    pub name: Name,
    /// Which role
    #[arg(value_name = "ROLE", value_parser = parse::name)]
    pub role: Name,
}

/// `role …`
#[derive(Debug, Subcommand)]
pub enum RoleCommand {
    /// Add a role
    #[command(after_help = "Examples:\n  portcullis role add sales\n  \
                            portcullis role add manager --includes sales --includes staff")]
    Add(RoleAdd),
    /// Every role
    #[command(after_help = "Examples:\n  portcullis role list")]
    List,
    /// One role: what it includes and who holds it
    #[command(after_help = "Examples:\n  portcullis role show sales")]
    Show(RoleName),
    /// Remove a role from everybody who holds it
    #[command(after_help = "Examples:\n  portcullis role remove sales")]
    Remove(RoleName),
}

/// `role add`
#[derive(Debug, Args)]
pub struct RoleAdd {
    /// Its name
    #[arg(value_name = "NAME", value_parser = parse::name)]
    pub name: Name,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub description: String,
    /// Holding it means holding this one too; may be repeated
    #[arg(long = "includes", value_name = "ROLE", value_parser = parse::name)]
    pub includes: Vec<Name>,
}

/// Which role.
#[derive(Debug, Args)]
pub struct RoleName {
    /// Its name
    #[arg(value_name = "NAME", value_parser = parse::name)]
    pub name: Name,
}

/// `service …`
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Add a service
    #[command(after_help = "Examples:\n  portcullis service add backup --description \"Nightly backup\"")]
    Add(ServiceAdd),
    /// Every service
    #[command(after_help = "Examples:\n  portcullis service list")]
    List,
    /// One service: roles and tokens
    #[command(after_help = "Examples:\n  portcullis service show backup")]
    Show(ServiceName),
    /// Make its tokens no good, from the next request on
    #[command(after_help = "Examples:\n  portcullis service disable backup")]
    Disable(ServiceName),
    /// Make its tokens good again
    #[command(after_help = "Examples:\n  portcullis service enable backup")]
    Enable(ServiceName),
    /// Remove a service with its roles and tokens
    #[command(after_help = "Examples:\n  portcullis service remove backup")]
    Remove(ServiceName),
    /// Give a service a role
    #[command(after_help = "Examples:\n  portcullis service grant backup reader")]
    Grant(Grant),
    /// Take a role from a service
    #[command(after_help = "Examples:\n  portcullis service revoke backup reader")]
    Revoke(Grant),
}

/// `service add`
#[derive(Debug, Args)]
pub struct ServiceAdd {
    /// Letters, digits and . _ - + @; no user may have it
    #[arg(value_name = "NAME", value_parser = parse::name)]
    pub name: Name,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub description: String,
}

/// Which service.
#[derive(Debug, Args)]
pub struct ServiceName {
    /// Its name
    #[arg(value_name = "NAME", value_parser = parse::name)]
    pub name: Name,
}

/// `token …`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it, this once
    ///
    /// The token alone goes to standard output, everything else to standard error. A service that does not exist is
    /// added.
    #[command(after_help = "Examples:\n  portcullis token create --service backup --app /notes --expires 30d\n  \
                            TOKEN=$(portcullis token create --user ann --name laptop)\n  \
                            portcullis token create --user ann --app /notes --jwt --expires 1h")]
    Create(TokenCreate),
    /// Every token, never its text
    #[command(after_help = "Examples:\n  portcullis token list\n  portcullis token list --service backup")]
    List(TokenOwner),
    /// Make a token no good, from the next request on
    #[command(after_help = "Examples:\n  portcullis token revoke tok_4fK0c2…")]
    Revoke {
        /// Its public id, see `token list`
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// `token create`
#[derive(Debug, Args)]
pub struct TokenCreate {
    /// Whose it is
    #[command(flatten)]
    pub owner: TokenOwner,
    /// Good for this application only; may be repeated
    #[arg(long = "app", value_name = "NAME")]
    pub applications: Vec<String>,
    /// Good for so long: 30m, 12h, 90d, 4w, or `never` [default: 90d, 1h for a JWT]
    #[arg(long, value_name = "TIME", value_parser = parse::expiry)]
    pub expires: Option<Expiry>,
    /// What to call it
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub name: String,
    /// Make a signed JWT (ES256) instead of an opaque token; needs --app
    #[arg(long, requires = "applications")]
    pub jwt: bool,
}

/// Whose tokens.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct TokenOwner {
    /// Owned by this user
    #[arg(long, value_name = "NAME", value_parser = parse::name)]
    pub user: Option<Name>,
    /// Owned by this service
    #[arg(long, value_name = "NAME", value_parser = parse::name)]
    pub service: Option<Name>,
}
