pub(crate) mod run;
pub(crate) mod upgrade;
