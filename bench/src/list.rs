//! `bench list`: what can be measured.

use crate::arm::Arm;
use crate::bare::Operation;
use crate::report::table::{Column, Table};

/// The arms and the operations, as text.
pub(crate) fn render(colour: bool) -> String {
    let columns = [Column::text("arm"), Column::text("a wake-up is"), Column::text("needs")];
    let mut arms = Table::new("Arms: how the loop waits / who clears an eventfd", &columns);
    for arm in Arm::all() {
        arms.row(vec![arm.to_string().into(), arm.description().into(), arm.requirement().into()]);
    }
    let columns = [Column::text("operation"), Column::text("compared with")];
    let mut operations = Table::new("Operations of 'bench eventfd'", &columns);
    for operation in Operation::all() {
        let baseline = operation.baseline().map(|baseline| baseline.to_string()).unwrap_or_default();
        operations.row(vec![operation.to_string().into(), baseline.into()]);
    }
    format!("{}\n{}", arms.render(colour), operations.render(colour))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arm_and_operation_is_listed() {
        let text = render(false);
        for arm in Arm::all() {
            assert_eq!(text.lines().filter(|line| line.starts_with(&format!("{arm} "))).count(), 1, "{arm}");
        }
        for operation in Operation::all() {
            assert!(text.contains(&operation.to_string()));
        }
    }
}
