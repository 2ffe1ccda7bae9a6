//! Which nodes have all of the flow between them.

use zgpu_core::shard::Shard;

/// Chooses nodes in their order until each part of the flow is kept by `replicas` of them; a node that adds nothing is
/// left out. Returns their places, or a part of the flow that too few keep.
pub fn choose(shards: &[Shard], replicas: usize) -> Result<Vec<usize>, Shard> {
    let mut places = Vec::new();
    let mut chosen: Vec<Shard> = Vec::new();
    for (place, shard) in shards.iter().enumerate() {
        if thin_part(*shard, &chosen, replicas).is_some() {
            places.push(place);
            chosen.push(*shard);
        }
    }
    match thin_part(Shard::WHOLE, &chosen, replicas) {
        None => Ok(places),
        Some(part) => Err(part),
    }
}

/// A part of `shard` that fewer than `replicas` of `kept` have.
fn thin_part(shard: Shard, kept: &[Shard], replicas: usize) -> Option<Shard> {
    if kept.iter().filter(|kept| shard.is_within(kept)).count() >= replicas {
        return None;
    }
    // Only shares that cut this one can cover more of a half of it than of all of it.
    if !kept.iter().any(|kept| kept.is_within(&shard) && *kept != shard) {
        return Some(shard);
    }
    shard.halves()?.into_iter().find_map(|half| thin_part(half, kept, replicas))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(shards: &[&str], replicas: usize) -> Result<Vec<usize>, String> {
        let shards: Vec<Shard> = shards.iter().map(|text| text.parse().unwrap()).collect();
        choose(&shards, replicas).map_err(|part| part.to_string())
    }

    #[test]
    fn nodes_are_taken_until_all_is_covered() {
        assert_eq!(choice(&["0/1"], 1), Ok(vec![0]));
        assert_eq!(choice(&["0/1", "0/1"], 1), Ok(vec![0]));
        assert_eq!(choice(&["0/1", "0/1"], 2), Ok(vec![0, 1]));
        assert_eq!(choice(&["0/2", "0/2", "1/2"], 1), Ok(vec![0, 2]));
        assert_eq!(choice(&["0/2", "1/4", "3/4"], 1), Ok(vec![0, 1, 2]));
        assert_eq!(
            choice(&["0/4", "0/2", "1/2"], 1),
            Ok(vec![0, 1, 2]),
            "the first is taken before it is known better"
        );
        assert_eq!(choice(&["0/2", "0/4", "1/2"], 1), Ok(vec![0, 2]));
        assert_eq!(choice(&["0/1", "0/2", "1/2"], 2), Ok(vec![0, 1, 2]));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(choice(&[], 1), Err("0/1".into()));
        assert_eq!(choice(&["0/2"], 1), Err("1/2".into()));
        assert_eq!(choice(&["0/2", "1/4"], 1), Err("3/4".into()));
        assert_eq!(choice(&["0/1"], 2), Err("0/1".into()));
        assert_eq!(choice(&["0/1", "1/2"], 2), Err("0/2".into()));
        // A share of a node that says nonsense costs no more than its depth.
        let deep = format!("0/{}", 1u64 << 63);
        assert_eq!(choice(&[&deep], 1), Err(format!("{}/{}", 1u64 << 62, 1u64 << 63)));
    }

    /// The same question asked load by load.
    #[test]
    fn the_choice_agrees_with_a_count_of_loads() {
        let all: Vec<Shard> =
            [1u64, 2, 4, 8].into_iter().flat_map(|count| (0..count).map(move |id| Shard { id, count })).collect();
        for mask in 0u32..1 << all.len() {
            if mask.count_ones() > 4 {
                continue;
            }
            let shards: Vec<Shard> = (0..all.len()).filter(|at| mask >> at & 1 == 1).map(|at| all[at]).collect();
            for replicas in 1..3 {
                let is_covered = |places: &[usize]| {
                    (0..8).all(|load| places.iter().filter(|at| shards[**at].contains(load)).count() >= replicas)
                };
                let every: Vec<usize> = (0..shards.len()).collect();
                match choose(&shards, replicas) {
                    Ok(places) => assert!(is_covered(&places), "{shards:?}"),
                    Err(_) => assert!(!is_covered(&every), "{shards:?}"),
                }
            }
        }
    }
}
