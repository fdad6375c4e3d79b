//! Services of an agent: cgroups and pods that are attached, and what the agent tells of them.

mod attach;
mod pods;
mod status;
