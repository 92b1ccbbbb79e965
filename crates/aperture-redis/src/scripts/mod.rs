//! The Lua scripts, which the server runs as a whole each.

/// A script of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    Take,
    Enter,
    Leave,
    Renew,
    Nodes,
}

impl Script {
    /// All scripts, in the order of their indices.
    pub(crate) const ALL: [Self; 5] = [
        Self::Take,
        Self::Enter,
        Self::Leave,
        Self::Renew,
        Self::Nodes,
    ];

    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// Returns the text of the script.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Take => include_str!("take.lua"),
            Self::Enter => concat!(include_str!("slots.lua"), include_str!("enter.lua")),
            Self::Leave => concat!(include_str!("slots.lua"), include_str!("leave.lua")),
            Self::Renew => concat!(include_str!("slots.lua"), include_str!("renew.lua")),
            Self::Nodes => include_str!("nodes.lua"),
        }
    }
}

/// Packs numbers as the scripts read them: doubles, little-endian.
pub(crate) fn pack<const N: usize>(numbers: [f64; N]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

/// Reads numbers that a script packed. Returns `None` if there are not `N`.
pub(crate) fn unpack<const N: usize>(bytes: &[u8]) -> Option<[f64; N]> {
    let (chunks, rest) = bytes.as_chunks::<8>();
    if chunks.len() != N || !rest.is_empty() {
        return None;
    }
    let mut numbers = [0.0; N];
    for (number, chunk) in numbers.iter_mut().zip(chunks) {
        *number = f64::from_le_bytes(*chunk);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_a_round_trip_and_other_lengths_are_refused() {
        let numbers = [0.1, f64::INFINITY, -0.0, 9_007_199_254_740_993.0];
        assert_eq!(unpack(&pack(numbers)), Some(numbers));
        assert_eq!(unpack::<3>(&pack(numbers)), None);
        assert_eq!(unpack::<1>(&[0; 9]), None);
    }

    #[test]
    fn the_indices_of_scripts_are_their_places_in_the_list() {
        for (index, script) in Script::ALL.into_iter().enumerate() {
            assert_eq!(script.index(), index);
        }
    }
}
