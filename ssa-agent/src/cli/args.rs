//! Arguments that several subcommands share.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::{control::client::names, policy::Config, sys::cgroup};

/// Configuration to use.
#[derive(clap::Args, Clone, Debug)]
pub(in crate::cli) struct ConfigArgs {
    /// The configuration file [default: /etc/ssa/agent.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// Source of the configuration.
    pub(in crate::cli) fn config(&self) -> Config {
        self.config.clone().map_or(Config::Default, Config::File)
    }
}

/// Running agent to ask.
#[derive(clap::Args, Clone, Debug)]
pub(in crate::cli) struct AgentArgs {
    /// The agent that was started with this cgroup first [default: the one of the machine, started without any, or the
    /// only one that runs]
    #[arg(long = "agent", alias = "cgroup", value_name = "CGROUP")]
    agent: Option<PathBuf>,
}

impl AgentArgs {
    /// Name of the agent. Errors: none runs, or several do.
    pub(in crate::cli) fn name(&self) -> anyhow::Result<String> {
        if let Some(cgroup) = &self.agent {
            return agent_name(&cgroup::resolve(cgroup)?);
        }
        let mut names = names();
        match &names[..] {
            _ if names.iter().any(|name| name == MACHINE) => Ok(MACHINE.to_owned()),
            [_only] => Ok(names.remove(0)),
            [] => anyhow::bail!("no agent runs (`ssa-agent run` starts one)"),
            _ => anyhow::bail!("several agents run: say with --agent which of their cgroups you mean"),
        }
    }
}

/// Mount point of the bpffs that agents use, if nothing else is said.
pub(in crate::cli) const BPFFS: &str = "/sys/fs/bpf";

/// Name of the agent that is started without a cgroup.
pub(in crate::cli) const MACHINE: &str = "machine";

/// Name of the agent that is started with this cgroup first: its inode.
pub(in crate::cli) fn agent_name(cgroup: &Path) -> anyhow::Result<String> {
    let metadata = fs::metadata(cgroup).with_context(|| format!("cgroup {}", cgroup.display()))?;
    Ok(metadata.ino().to_string())
}
