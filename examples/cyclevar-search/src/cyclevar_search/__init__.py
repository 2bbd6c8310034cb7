"""Best of several candidates, judged scale by scale."""
