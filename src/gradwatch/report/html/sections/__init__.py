"""The sections of a run's page, one file each: from what the files say to markup."""
