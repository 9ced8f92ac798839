"""How the pages look, and the options Streamlit runs with. The charts take their colours from here too."""

from __future__ import annotations

INK = "#1f2933"
MUTED = "#66727f"
LINE = "#d9dee3"
PAPER = "#ffffff"
SHADE = "#f5f7f8"
ACCENT = "#0f6b6b"
BAD = "#b3382c"

OPTIONS = {
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",  # a defect of ours is in the terminal, not in front of a reviewer
    "client.toolbarMode": "minimal",
    "logger.hideWelcomeMessage": "true",
    "runner.magicEnabled": "false",
    "server.fileWatcherType": "none",
    "server.headless": "true",
    "server.showEmailPrompt": "false",
    "theme.base": "light",
    "theme.backgroundColor": PAPER,
    "theme.baseRadius": "6px",
    "theme.borderColor": LINE,
    "theme.headingFontSizes": '["1.75rem", "1.25rem", "1.05rem"]',
    "theme.headingFontWeights": "600",
    "theme.metricValueFontSize": "1.6rem",
    "theme.paddingTop": "1rem",
    "theme.primaryColor": ACCENT,
    "theme.secondaryBackgroundColor": SHADE,
    "theme.sidebar.backgroundColor": SHADE,
    "theme.textColor": INK,
}
