"""Reports on this machine: doctor, memory estimate, attention kernels."""
