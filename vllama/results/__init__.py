"""What was measured: kept in a ledger, shown in reports. It remembers and runs nothing."""
