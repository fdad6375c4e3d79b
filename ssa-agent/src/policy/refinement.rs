//! Which profiles are for an application, and the policy that they come to.

use super::{application::Application, file::File, policy::Policy, profile::Profile};

impl File {
    /// Profiles that are for an application, by index, the least specific first; later ones of the same
    /// rank after earlier ones.
    pub(crate) fn profiles_of(&self, application: &Application) -> Vec<usize> {
        self.ranked(|profile| profile.takes(application))
    }

    fn ranked(&self, takes: impl Fn(&Profile) -> bool) -> Vec<usize> {
        let mut indices: Vec<usize> = self
            .profiles
            .iter()
            .enumerate()
            .filter(|(_index, profile)| takes(profile))
            .map(|(index, _)| index)
            .collect();
        indices.sort_by_key(|index| self.profiles[*index].rank());
        indices
    }

    /// The machine's policy as these profiles refine it, one after the other.
    pub(crate) fn policy(&self, profiles: &[usize]) -> Policy {
        let mut policy = self.machine();
        for index in profiles {
            self.profiles[*index].refine(&mut policy);
        }
        policy
    }

    /// Name of a profile, and whom it is for.
    pub(crate) fn describe(&self, index: usize) -> (&str, String) {
        let profile = &self.profiles[index];
        (profile.name.get_ref(), profile.describe())
    }

    /// Whether a profile that takes a application's cgroup and user goes by its executable as well.
    pub(crate) fn asks_for_executable(&self, application: &Application) -> bool {
        let mut of_cgroup_and_user =
            self.profiles.iter().filter(|one| one.takes_cgroup(&application.cgroup) && one.takes_user(application.uid));
        of_cgroup_and_user.any(|profile| profile.executable.is_some())
    }

    /// Those of `profiles` that `takes` holds for, the weakest first, as [`Self::ranked`] has them.
    pub(super) fn ranked_among(&self, profiles: &[usize], takes: impl Fn(&usize) -> bool) -> Vec<usize> {
        let all = self.ranked(|_profile| true);
        all.into_iter().filter(|index| profiles.contains(index) && takes(index)).collect()
    }
}
