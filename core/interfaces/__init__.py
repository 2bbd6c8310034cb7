"""The interfaces that families and plugins implement."""
