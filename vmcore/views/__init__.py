"""Views: results of jobs as lines for people and as CSV. Nothing is computed and nothing is printed here."""
