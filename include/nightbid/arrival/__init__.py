"""Whether a night's newest day of logs has arrived, what a night does until then, and late days."""
