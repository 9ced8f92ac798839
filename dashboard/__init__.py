"""The reviewers' and operators' door: a Streamlit client of the HTTP API. It opens no database."""
