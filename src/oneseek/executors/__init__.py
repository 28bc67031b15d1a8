"""Where workers live: threads of this process (`inline`), or a process for each model (`processes`)."""
