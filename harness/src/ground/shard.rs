// SPDX-License-Identifier: GPL-2.0-only
//! A share of some work, for hosts that split it.

use std::fmt;
use std::str::FromStr;

/// A run's share of the work: `I/N`, I from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    of: usize,
}

impl Default for Shard {
    fn default() -> Self {
        Self { index: 1, of: 1 }
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, of)) if (1..=of).contains(&index) => Ok(Self { index, of }),
            _ => Err("write I/N with I from 1 to N, as in 2/4".to_owned()),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl Shard {
    /// Whether item `at` of `all` belongs to this shard. Neighbours share kernels and stay together.
    fn has(self, at: usize, all: usize) -> bool {
        at * self.of / all.max(1) + 1 == self.index
    }

    /// This shard's part of `items`.
    pub fn share<T>(self, items: Vec<T>) -> Vec<T> {
        let all = items.len();
        items.into_iter().enumerate().filter(|(at, _)| self.has(*at, all)).map(|(_, item)| item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_everything_once() {
        for (all, of) in [(0, 3), (1, 4), (7, 3), (10, 1), (12, 5)] {
            let items: Vec<usize> = (0..all).collect();
            let shards = (1..=of).map(|index| Shard { index, of });
            let shared: Vec<usize> = shards.flat_map(|shard| shard.share(items.clone())).collect();
            assert_eq!(shared, items, "{all} items in {of} shards");
        }
    }

    #[test]
    fn shards_have_a_form() {
        assert_eq!("2/4".parse(), Ok(Shard { index: 2, of: 4 }));
        for wrong in ["", "1", "0/4", "5/4", "1/0", "a/b", "1/2/3"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
