//! Which lane gives its place to a higher class when all places are taken.
//!
//! The lowest class goes first; within it the lane seated last, so that what is nearly done stays. A place is only
//! given to a strictly higher class: lanes of one class do not push each other out.

use crate::job::Priority;

/// A taken place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    /// The lane's own class, not its aged one: who aged its way in would be pushed out again at once.
    pub(crate) priority: Priority,
    /// When it sat down: any number that grows.
    pub(crate) since: u64,
}

/// The index of the lane that makes room for a newcomer, if one has to.
pub(crate) fn displaced(seats: &[Seat], newcomer: Priority) -> Option<usize> {
    let (index, seat) =
        seats.iter().enumerate().min_by_key(|(_, seat)| (seat.priority, std::cmp::Reverse(seat.since)))?;
    (seat.priority < newcomer).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seats(classes: &[usize]) -> Vec<Seat> {
        let seat = |(i, c): (usize, &usize)| Seat { priority: Priority::from_class(*c), since: i as u64 };
        classes.iter().enumerate().map(seat).collect()
    }

    #[test]
    fn the_youngest_of_the_lowest_goes() {
        assert_eq!(displaced(&seats(&[1, 0, 2, 0, 3]), Priority::Normal), Some(3));
        assert_eq!(displaced(&seats(&[1, 1]), Priority::Normal), None);
        assert_eq!(displaced(&[], Priority::Critical), None);
    }

    proptest! {
        #[test]
        fn nobody_goes_for_an_equal(classes in prop::collection::vec(0_usize..4, 1..10), class in 0_usize..4) {
            let (seats, newcomer) = (seats(&classes), Priority::from_class(class));
            match displaced(&seats, newcomer) {
                Some(i) => {
                    prop_assert!(seats[i].priority < newcomer);
                    prop_assert!(seats.iter().all(|s| s.priority >= seats[i].priority));
                }
                None => prop_assert!(seats.iter().all(|s| s.priority >= newcomer)),
            }
        }

        #[test]
        fn displacing_ends(classes in prop::collection::vec(0_usize..4, 1..10), class in 0_usize..4) {
            let (mut seats, newcomer) = (seats(&classes), Priority::from_class(class));
            let mut rounds = 0;
            while let Some(i) = displaced(&seats, newcomer) {
                seats[i] = Seat { priority: newcomer, since: 100 + rounds };
                rounds += 1;
                prop_assert!(rounds <= seats.len() as u64);
            }
        }
    }
}
