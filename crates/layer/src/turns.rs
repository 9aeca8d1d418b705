//! Things that are made in any order and dealt with in theirs, by one thread at a time.

use std::collections::BTreeMap;

/// Numbered things, and what deals with them: both are given out together, each thing when it is its turn.
pub(crate) struct Turns<Item, Tool> {
    waiting: BTreeMap<u64, Item>,
    turn: u64,
    /// Absent while a thread has it.
    tool: Option<Tool>,
}

impl<Item, Tool> Turns<Item, Tool> {
    pub(crate) fn new(tool: Tool) -> Turns<Item, Tool> {
        Turns { waiting: BTreeMap::new(), turn: 0, tool: Some(tool) }
    }

    /// Adds the thing of a number.
    pub(crate) fn put(&mut self, number: u64, item: Item) {
        self.waiting.insert(number, item);
    }

    /// Gives out the thing whose turn it is, unless it is not there yet or another thread has the tool.
    pub(crate) fn take(&mut self) -> Option<(Tool, Item)> {
        let tool = self.tool.take_if(|_| self.waiting.contains_key(&self.turn))?;
        let item = self.waiting.remove(&self.turn)?;
        self.turn += 1;
        Some((tool, item))
    }

    /// The same, but only for the thing of this number.
    pub(crate) fn take_own(&mut self, number: u64) -> Option<(Tool, Item)> {
        if self.turn == number { self.take() } else { None }
    }

    /// Takes the tool back.
    pub(crate) fn give_back(&mut self, tool: Tool) {
        self.tool = Some(tool);
    }

    /// How many things were given out.
    pub(crate) fn given(&self) -> u64 {
        self.turn
    }

    /// The tool, when all threads have ended well.
    pub(crate) fn finish(self) -> Option<Tool> {
        self.tool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_turn_and_one_thread_has_the_tool() {
        let mut turns = Turns::new("tool");
        turns.put(1, 'b');
        assert_eq!((turns.take(), turns.given()), (None, 0), "the first is missing");
        turns.put(0, 'a');
        assert_eq!(turns.take_own(1), None, "it is not its turn");
        assert_eq!(turns.take_own(0), Some(("tool", 'a')));
        assert_eq!((turns.take(), turns.given()), (None, 1), "another has the tool");
        turns.give_back("tool");
        assert_eq!(turns.take(), Some(("tool", 'b')));
        turns.give_back("tool");
        assert_eq!((turns.take(), turns.given()), (None, 2), "there is no third");
        assert_eq!(turns.finish(), Some("tool"));
    }
}
