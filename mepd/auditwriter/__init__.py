"""The audit-writer: tasks' audit records from user endpoints into the administrator's log."""
