//! Applications that listen: what `accept` gives, certificates, clients of every kind, and a dead agent.

mod serving;
