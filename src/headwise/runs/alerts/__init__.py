"""Alerts: a term dead, spiking, dominating, fighting, drifting in weight, not finite; loss that is in no term.

They are judged from the logged steps alone, so that they are the same while a run trains and afterwards.
"""

from headwise.runs.alerts.alert import Alert, AlertError, Alerts
from headwise.runs.alerts.watch import Watch, replay

__all__ = ["Alert", "AlertError", "Alerts", "Watch", "replay"]
