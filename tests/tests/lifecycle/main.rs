//! Life of an agent: what it needs, faults, limits, upgrades, and nothing that stays behind.

mod doctor;
mod faults;
mod leaks;
mod reliability;
mod upgrade;
