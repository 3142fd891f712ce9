"""The pages of the report: a module a page, each with `page(study)`, which gives None where there is nothing to show."""
