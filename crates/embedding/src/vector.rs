//! What a model makes of a text.

use std::fmt;
use std::sync::Arc;

/// The most numbers of a vector.
pub const MAX_DIMENSIONS: usize = 8192;

/// The direction that a model gives a text: numbers whose squares add up to 1. Cheap to clone.
#[derive(Clone, PartialEq)]
pub struct Vector(Arc<[f32]>);

impl Vector {
    /// The direction of these numbers; none if they have none, or are too many.
    pub fn new(mut numbers: Vec<f32>) -> Option<Self> {
        if numbers.len() > MAX_DIMENSIONS {
            return None;
        }
        let squares: f64 = numbers.iter().map(|&it| f64::from(it).powi(2)).sum();
        let length = squares.sqrt();
        // Neither zero nor infinite, and no number among them that is none.
        if !length.is_normal() {
            return None;
        }
        for number in &mut numbers {
            *number = (f64::from(*number) / length) as f32;
        }
        Some(Self(numbers.into()))
    }

    /// The cosine of the angle between two vectors, -1 to 1; none if they have not as many numbers.
    pub fn similarity(&self, other: &Self) -> Option<f32> {
        if self.0.len() != other.0.len() {
            return None;
        }
        // Several sums at once, which compilers turn into instructions for several numbers at once.
        const LANES: usize = 16;
        let (mut sums, rest) = ([0.0f32; LANES], self.0.len() % LANES);
        let whole = self.0.len() - rest;
        for (one, two) in self.0.chunks_exact(LANES).zip(other.0.chunks_exact(LANES)) {
            for lane in 0..LANES {
                sums[lane] += one[lane] * two[lane];
            }
        }
        let tail = self.0[whole..].iter().zip(&other.0[whole..]);
        let dot = sums.iter().sum::<f32>() + tail.map(|(one, two)| one * two).sum::<f32>();
        Some(dot.clamp(-1.0, 1.0))
    }

    /// How many numbers there are.
    pub fn dimensions(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vector({})", self.dimensions())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_similarity_is_the_cosine(pairs in prop::collection::vec((-9.0f32..9.0, -9.0f32..9.0), 1..99)) {
            let (one, two): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
            let dot: f64 = pairs.iter().map(|&(x, y)| f64::from(x) * f64::from(y)).sum();
            let length = |of: &[f32]| of.iter().map(|&it| f64::from(it).powi(2)).sum::<f64>().sqrt();
            let cosine = dot / (length(&one) * length(&two));
            if let (Some(one), Some(two)) = (Vector::new(one), Vector::new(two)) {
                let similarity = f64::from(one.similarity(&two).unwrap());
                prop_assert!((similarity - cosine).abs() < 1e-4, "{similarity} {cosine}");
                prop_assert!(one.similarity(&one).unwrap() > 0.9999);
            }
        }
    }

    #[test]
    fn what_has_no_direction_is_no_vector() {
        for numbers in [
            vec![],
            vec![0.0, 0.0],
            vec![1.0, f32::NAN],
            vec![f32::INFINITY],
            vec![1.0; MAX_DIMENSIONS + 1],
        ] {
            assert_eq!(Vector::new(numbers), None);
        }
        let flat = Vector::new(vec![3.0, 4.0]).unwrap();
        let deep = Vector::new(vec![3.0, 4.0, 0.0]).unwrap();
        assert_eq!(flat.similarity(&deep), None);
    }
}
