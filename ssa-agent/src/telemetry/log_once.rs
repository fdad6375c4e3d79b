//! Log of trouble that lasts: a line when it begins or changes, not each time that it is met.

/// Text that was logged last, of trouble that lasts.
#[derive(Debug, Default)]
pub(crate) struct LogOnce(Option<String>);

impl LogOnce {
    /// Whether a text is another than the last one, which it becomes: then it is to be logged.
    pub(crate) fn is_new(&mut self, text: &str) -> bool {
        let new = self.0.as_deref() != Some(text);
        if new {
            self.0 = Some(text.to_owned());
        }
        new
    }

    /// Notes that the trouble is over: the next text is logged, whatever it is.
    pub(crate) fn over(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_text_is_new_once_until_the_trouble_is_over() {
        let mut once = LogOnce::default();
        assert!(once.is_new("a") && !once.is_new("a") && once.is_new("b") && once.is_new("a"));
        once.over();
        assert!(once.is_new("a"));
    }
}
