use tokio::sync::watch;

/// What every answer passes before its first byte.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: watch::Sender<GateState>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct GateState {
    /// How many more answers may pass; none: all of them.
    left: Option<usize>,
    waiting: usize,
}

impl GateState {
    const fn is_shut(self) -> bool {
        matches!(self.left, Some(0))
    }

    /// Answers that wait and were not told to go on.
    pub(crate) fn held(self) -> usize {
        self.left
            .map_or(0, |left| self.waiting.saturating_sub(left))
    }
}

impl Gate {
    /// Holds every answer from now on.
    pub(crate) fn shut(&self) {
        self.state.send_modify(|state| state.left = Some(0));
    }

    /// Lets `n` answers more through a gate that is shut.
    pub(crate) fn admit(&self, n: usize) {
        self.state.send_modify(|state| {
            state.left = state.left.map(|left| left.saturating_add(n));
        });
    }

    /// Holds nothing any more.
    pub(crate) fn open(&self) {
        self.state.send_modify(|state| state.left = None);
    }

    pub(crate) fn held(&self) -> usize {
        self.state.borrow().held()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<GateState> {
        self.state.subscribe()
    }

    /// Returns once the answer may go on.
    pub(crate) async fn pass(&self) {
        let waiter = Waiter::new(self);
        let mut state = self.state.subscribe();
        loop {
            // The sender lives as long as `self`, so this cannot fail.
            let _ = state.wait_for(|state| !state.is_shut()).await;
            let mut passed = false;
            self.state.send_if_modified(|state| {
                passed = !state.is_shut();
                if passed {
                    state.left = state.left.map(|left| left - 1);
                }
                passed
            });
            if passed {
                drop(waiter);
                return;
            }
        }
    }
}

/// Counts an answer that waits, also where its client goes away meanwhile.
struct Waiter<'a>(&'a Gate);

impl<'a> Waiter<'a> {
    fn new(gate: &'a Gate) -> Self {
        gate.state.send_modify(|state| state.waiting += 1);
        Self(gate)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.waiting -= 1);
    }
}
