//! Applications that listen: what `accept` gives, certificates, clients of every kind, and a dead agent.

mod accept;
mod addresses;
mod agent_gone;
mod certificates;
mod clients;
mod site;
