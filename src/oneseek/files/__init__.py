"""Where every file is (`layout`), and how one is written so that a crash leaves the old or the new one (`durable`)."""
