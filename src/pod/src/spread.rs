//! Work on many pods at once, on as many threads as there are cores: it halves what a client waits for on the smallest
//! node. For reading the kernel's files, of which each is another's, and for encoding what was read.

/// A node's cores are for its pods.
const THREADS_MAX: usize = 4;
/// A thread costs as much as the reading of a part of a pod's files; it shall have some more to do.
const ITEMS_MIN: usize = 8;

/// Maps many items, in their order. Blocks; what an item's panic says is said again here.
pub fn spread<T: Sync, R: Send>(items: &[T], each: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(THREADS_MAX).min(items.len() / ITEMS_MIN).max(1);
    if threads == 1 {
        return items.iter().map(each).collect();
    }
    let each = &each;
    std::thread::scope(|scope| {
        let parts = items.chunks(items.len().div_ceil(threads));
        let workers: Vec<_> =
            parts.map(|part| scope.spawn(move || part.iter().map(each).collect::<Vec<R>>())).collect();
        let done = workers.into_iter().map(|worker| worker.join());
        done.flat_map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spread_stays_whole_and_in_order() {
        for length in [0, 1, 2, ITEMS_MIN, 2 * ITEMS_MIN + 1, 1000] {
            let items: Vec<usize> = (0..length).collect();
            let doubled: Vec<usize> = items.iter().map(|item| item * 2).collect();
            assert_eq!(spread(&items, |item| item * 2), doubled, "{length}");
        }
    }
}
