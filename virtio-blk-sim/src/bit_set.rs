//! Sets of feature bits. The device features and the transport features are two set types that
//! differ only in the names of their bits.

/// Defines a set of 64 bits. `NAME = number;` gives a bit a name. The set implements
/// [`std::ops::BitOr`], and a [`std::fmt::Debug`] that prints the names of the bits; bits without a
/// name are printed in hexadecimal.
macro_rules! bit_set {
    (
        $(#[$of_set:meta])*
        pub struct $Set:ident {
            $($(#[$of_bit:meta])* $NAME:ident = $number:expr;)*
        }
    ) => {
        $(#[$of_set])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $Set(u64);

        impl $Set {
            /// The empty set.
            pub const NONE: Self = Self(0);
            $($(#[$of_bit])* pub const $NAME: Self = Self(1 << $number);)*

            /// Creates a set from these bits. Bits without a name are allowed.
            pub const fn from_bits(bits: u64) -> Self {
                Self(bits)
            }

            /// The set as a number, as in the protocol.
            pub const fn bits(self) -> u64 {
                self.0
            }

            /// Returns true if every feature of `other` is in this set.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// This set without the features of `other`.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }
        }

        impl ::std::ops::BitOr for $Set {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }

        impl ::std::ops::BitOrAssign for $Set {
            fn bitor_assign(&mut self, other: Self) {
                self.0 |= other.0;
            }
        }

        impl ::std::fmt::Debug for $Set {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                let mut set = f.debug_set();
                let mut rest = *self;
                for (feature, name) in [$((Self::$NAME, stringify!($NAME))),*] {
                    if self.contains(feature) {
                        set.entry(&format_args!("{name}"));
                        rest = rest.without(feature);
                    }
                }
                if rest != Self::NONE {
                    set.entry(&format_args!("{:#x}", rest.0));
                }
                set.finish()
            }
        }
    };
}

pub(crate) use bit_set;

#[cfg(all(test, feature = "vhost-user"))]
mod tests {
    use crate::blk::device::Features;
    use crate::vhost_user::ProtocolFeatures;

    #[test]
    fn debug_names_known_bits_and_shows_the_rest() {
        let features = Features::RO | Features::VERSION_1 | Features::from_bits(1 << 40);
        assert_eq!(format!("{features:?}"), "{RO, VERSION_1, 0x10000000000}");
        let features = ProtocolFeatures::MQ | ProtocolFeatures::STATUS | ProtocolFeatures::from_bits(1 << 63);
        assert_eq!(format!("{features:?}"), "{MQ, STATUS, 0x8000000000000000}");
        assert_eq!(format!("{:?}", Features::NONE), "{}");
    }

    #[test]
    fn sets_behave_as_sets() {
        let both = Features::FLUSH | Features::MQ;
        assert!(both.contains(Features::MQ) && !both.contains(Features::MQ | Features::RO));
        assert!(both.contains(Features::NONE) && !both.without(Features::MQ).contains(Features::MQ));
        let mut more = both;
        more |= Features::RO;
        assert_eq!(more.without(both), Features::RO);
    }
}
