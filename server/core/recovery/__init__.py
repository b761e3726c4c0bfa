"""What an error means, and how a later attempt's text joins the delivered text."""
