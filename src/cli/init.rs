//! `init`.

use std::path::Path;

use serde_json::json;

use super::{Result, args::InitArgs, context::actor, out::Out, secrets};
use crate::{
    authn::password::Cost,
    clock::Clock,
    control::{
        install::{self, Installed},
        passwords::PasswordRules,
    },
    model::{Method, SecurityLevel},
};

/// `portcullis init`
pub(super) async fn init(args: InitArgs, out: &mut Out) -> Result {
    let level = SecurityLevel::from(args.level);
    let password = args.admin_password_file.as_deref().map(secrets::read).transpose()?;
    let (admin, listen) = (args.admin.clone(), args.listen);
    let wanted = install::InitArgs {
        directory: args.dir,
        listen,
        admin: args.admin,
        password,
        rules: PasswordRules { level, cost: Cost::production() },
    };
    let made = install::init(&actor(), wanted, Clock::System).await?;
    let password = made.generated.as_ref().map(|secret| secret.reveal().as_str());
    if out.json {
        return Ok(out.value(&json!({
            "config": made.config,
            "store": made.store,
            "authority": made.authority,
            "policies": made.policies,
            "administrator": admin.as_str(),
            "password": password,
        }))?);
    }
    out.facts(&[
        ("configuration", made.config.display().to_string()),
        ("store", made.store.display().to_string()),
        ("policies", made.policies.display().to_string()),
        ("authority", made.authority.display().to_string()),
        ("administrator", admin.to_string()),
        ("password", password.map(|text| format!("{text}   (shown only now)")).unwrap_or_default()),
    ])?;
    Ok(next_steps(&made, level, listen, out)?)
}

fn next_steps(
    made: &Installed,
    level: SecurityLevel,
    listen: std::net::SocketAddr,
    out: &mut Out,
) -> std::io::Result<()> {
    let elsewhere = made.config.parent().is_some_and(|dir| dir != Path::new(".") && dir != Path::new(""));
    let portcullis =
        if elsewhere { format!("portcullis --config {}", made.config.display()) } else { "portcullis".to_owned() };
    out.line("\nNext:")?;
    out.line(format_args!(
        "  describe an application in {}/NAME.toml (see the README there)",
        made.policies.display()
    ))?;
    out.line(format_args!("  {portcullis} check"))?;
    out.line(format_args!("  {portcullis} serve"))?;
    let host = if listen.ip().is_loopback() || listen.ip().is_unspecified() {
        "localhost".to_owned()
    } else {
        listen.ip().to_string()
    };
    out.line(format_args!("  curl --cacert {} https://{host}:{}/", made.authority.display(), listen.port()))?;
    if !listen.ip().is_loopback() {
        out.warn("the development certificate is good for localhost alone: set [tls] certificates for other names");
    }
    if !level.methods().contains(Method::Password) {
        out.warn(format_args!(
            "at the level {level} passwords sign nobody in until second factors exist: make a token with `{portcullis} token create`"
        ));
    }
    Ok(())
}
