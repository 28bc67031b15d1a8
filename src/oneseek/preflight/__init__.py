"""Everything that would make a run fail, said at once and before any compute.

facts = gather(config, ...)     findings = check(config, facts)
"""

# Importing the rules registers them: whoever imports anything from here gets all of them.
from oneseek.preflight import rules
from oneseek.preflight.finding import check, registered

__all__ = ["check", "registered", "rules"]
