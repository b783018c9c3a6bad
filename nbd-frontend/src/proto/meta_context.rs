//! The metadata contexts: which there are, and which a query selects.

/// A metadata context this crate knows.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Context {
    /// `base:allocation`: [`STATE_HOLE`](super::consts::STATE_HOLE) and
    /// [`STATE_ZERO`](super::consts::STATE_ZERO).
    BaseAllocation,
    /// `qemu:allocation-depth`: 0 unallocated, 1 in this layer, 2 or more in an underlying one.
    AllocationDepth,
}

impl Context {
    /// Every context, in the order of their ids.
    pub const ALL: [Self; 2] = [Self::BaseAllocation, Self::AllocationDepth];

    /// The namespace and the leaf.
    const fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::BaseAllocation => ("base", "allocation"),
            Self::AllocationDepth => ("qemu", "allocation-depth"),
        }
    }

    /// The full name, as in a query.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BaseAllocation => "base:allocation",
            Self::AllocationDepth => "qemu:allocation-depth",
        }
    }

    /// The id our server gives it, once selected.
    #[must_use]
    pub const fn id(self) -> u32 {
        match self {
            Self::BaseAllocation => 1,
            Self::AllocationDepth => 2,
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::BaseAllocation => 1,
            Self::AllocationDepth => 2,
        }
    }
}

/// A set of metadata contexts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct MetaContexts {
    bits: u8,
}

impl MetaContexts {
    /// No context.
    pub const NONE: Self = Self { bits: 0 };

    /// Every context.
    #[must_use]
    pub fn all() -> Self {
        Context::ALL.into_iter().collect()
    }

    /// Whether `context` is in the set.
    #[inline]
    #[must_use]
    pub const fn has(self, context: Context) -> bool {
        self.bits & context.bit() != 0
    }

    /// Whether no context is in the set.
    #[inline]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// How many contexts are in the set; a successful block status has as many chunks.
    #[must_use]
    pub const fn len(self) -> usize {
        self.bits.count_ones() as usize
    }

    /// Each context of the set with its id, in the order of the ids.
    pub fn iter(self) -> impl Iterator<Item = (u32, Context)> {
        Context::ALL
            .into_iter()
            .filter(move |&c| self.has(c))
            .map(|c| (c.id(), c))
    }

    /// Adds the contexts of `other`.
    pub(super) fn extend(&mut self, other: Self) {
        self.bits |= other.bits;
    }
}

impl FromIterator<Context> for MetaContexts {
    fn from_iter<I: IntoIterator<Item = Context>>(contexts: I) -> Self {
        Self {
            bits: contexts
                .into_iter()
                .fold(0, |bits, context| bits | context.bit()),
        }
    }
}

/// What a query is for: an empty leaf means everything in a list and nothing in a selection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum QueryUse {
    /// `NBD_OPT_LIST_META_CONTEXT`.
    List,
    /// `NBD_OPT_SET_META_CONTEXT`.
    Select,
}

/// The contexts a query stands for; `None` if it lacks a namespace and a colon.
///
/// "`base:` - the server MUST ignore this form during `NBD_OPT_SET_META_CONTEXT`, and MUST support
/// this as a wildcard during `NBD_OPT_LIST_META_CONTEXT`"; "the server MUST ignore query strings
/// belonging to an unknown namespace"; an unknown leaf of `base:` "the server MUST ignore" too
/// (proto.md, "The `base:` metadata namespace").
pub(super) fn query(text: &str, query_use: QueryUse) -> Option<MetaContexts> {
    let (namespace, leaf) = text.split_once(':')?;
    if namespace.is_empty() {
        return None;
    }
    let wildcard = leaf.is_empty() && query_use == QueryUse::List;
    let matches = |context: &Context| {
        let (its_namespace, its_leaf) = context.parts();
        namespace == its_namespace && (wildcard || leaf == its_leaf)
    };
    Some(Context::ALL.into_iter().filter(matches).collect())
}

#[cfg(test)]
mod tests {
    use super::{Context, MetaContexts, QueryUse, query};

    #[test]
    fn names_are_their_parts() {
        for context in Context::ALL {
            let (namespace, leaf) = context.parts();
            assert_eq!(context.name(), format!("{namespace}:{leaf}"));
        }
    }

    #[test]
    fn an_empty_leaf_lists_its_namespace_and_selects_nothing() {
        let base = [Context::BaseAllocation].into_iter().collect();
        assert_eq!(query("base:", QueryUse::List), Some(base));
        assert_eq!(query("base:", QueryUse::Select), Some(MetaContexts::NONE));
        assert_eq!(query("qemu:", QueryUse::Select), Some(MetaContexts::NONE));
    }

    #[test]
    fn unknown_namespaces_and_leaves_select_nothing_and_a_missing_colon_is_an_error() {
        for text in [
            "x-none:allocation",
            "base:nothing",
            "qemu:dirty-bitmap:b",
            "base:allocation2",
        ] {
            assert_eq!(
                query(text, QueryUse::List),
                Some(MetaContexts::NONE),
                "{text}"
            );
        }
        assert_eq!(query("allocation", QueryUse::List), None);
        assert_eq!(query(":allocation", QueryUse::List), None);
    }
}
