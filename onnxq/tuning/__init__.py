"""The loop that looks for a better plan: plan, rewrite, judge, next plan."""
